import pytest
import torch

from lightning_unlearn.metrics.auc import AUC, auc, auc_closeness, priv_leak


def pairs(members, others):
    """Count wins over all pairs, a tie as half of one."""
    wins = [float(m > o) + 0.5 * float(m == o) for m in members.tolist() for o in others.tolist()]
    return sum(wins) / len(wins)


def test_orientation():
    high, low = torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])
    assert auc(high, low) == 1.0
    assert auc(low, high) == 0.0
    assert auc(high, high.clone()) == 0.5


def test_is_the_share_of_pairs_won_with_ties():
    generator = torch.Generator().manual_seed(1)
    members, others = (torch.randint(0, 6, (size,), generator=generator).double() for size in (23, 17))
    assert auc(members, others) == pytest.approx(pairs(members, others))
    assert 0.3 < auc(members, others) < 0.7


def test_is_the_mann_whitney_statistic_of_scipy():
    from scipy.stats import mannwhitneyu

    generator = torch.Generator().manual_seed(2)
    members, others = torch.randn(40, generator=generator) + 0.5, torch.randn(30, generator=generator)
    statistic = mannwhitneyu(members.numpy(), others.numpy()).statistic
    assert auc(members, others) == pytest.approx(statistic / (40 * 30))


def test_metric_over_uneven_updates():
    metric = AUC()
    metric.update(torch.tensor([3.0, 1.0]), torch.tensor([]))
    metric.update(torch.tensor([]), torch.tensor([1.0, 0.0]))
    assert metric.compute().item() == 0.875  # 3 > 1, 3 > 0, 1 = 1, 1 > 0


def test_closeness_to_a_retrained_model():
    assert auc_closeness(0.4, 0.4) == 1.0
    assert auc_closeness(1.0, 0.5) == 0.0
    assert auc_closeness(0.2, 0.6) == pytest.approx(1 - 0.4 / 0.6)
    assert auc_closeness(0.9, 0.4) == pytest.approx(1 - 0.5 / 0.6)


def test_priv_leak_has_the_sign_of_muse():
    # MUSE's AUC is that of non-members: 0.2 after, 0.4 of the retrained model, (0.2 - 0.4) / 0.4
    assert priv_leak(0.8, 0.6) == pytest.approx(-50)
    assert priv_leak(0.2, 0.6) == pytest.approx(100)  # over-unlearned: (0.8 - 0.4) / 0.4
    with pytest.raises(ValueError, match="retrained must be an AUC below 1, got"):
        priv_leak(0.5, 1.0)


def test_errors():
    with pytest.raises(ValueError, match="non_members must hold at least one score and no NaN, got 0 scores"):
        auc(torch.ones(1), torch.tensor([]))
    with pytest.raises(ValueError, match="members must hold at least one score and no NaN, got 2 scores"):
        auc(torch.tensor([1.0, torch.nan]), torch.ones(1))
