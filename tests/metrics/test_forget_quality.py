import pytest
import torch

from lightning_unlearn.metrics.forget_quality import ForgetQuality, ks_p_value


def test_disjoint_samples_by_counting():
    # every one of 4 below every one of 4: of C(8, 4) = 70 orders, 2 are as extreme
    low, high = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.6, 0.7, 0.8, 0.9])
    assert ks_p_value(low, high) == pytest.approx(2 / 70)
    assert ks_p_value(low, low) == 1.0


def test_metric_joins_updates_and_keeps_tiny_p_values():
    metric = ForgetQuality(torch.linspace(0, 1, 400))
    for part in torch.linspace(2, 3, 400).split(150):
        metric.update(part)
    assert 0 < metric.compute().item() < 1e-200
    metric.reset()
    with pytest.raises(ValueError, match="compute needs at least one update"):
        metric.compute()


def test_errors():
    with pytest.raises(ValueError, match="retrained_ratios must hold at least one truth ratio, got none"):
        ks_p_value(torch.tensor([1.0]), torch.tensor([]))
