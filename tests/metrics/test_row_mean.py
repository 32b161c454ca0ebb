"""The mean over rows, by hand and over ranks of different sizes."""

import torch

from lightning_unlearn.metrics.row_mean import RowMean


def test_mean_over_updates_weighs_rows_and_not_updates():
    metric = RowMean()
    metric.update([1.0, 0.0, 0.5])
    metric.update(torch.tensor([1.0]))
    assert metric.compute() == 0.625  # 2.5 / 4, not (0.5 + 1) / 2


def test_ranks_of_different_sizes():
    one, other = RowMean(), RowMean()
    one.update([1.0, 0.0, 0.5])
    other.update([1.0])
    merged = {
        name: reduce(torch.stack([getattr(one, name), getattr(other, name)]))
        for name, reduce in one._reductions.items()
    }
    assert merged["total"] / merged["rows"] == 0.625


def test_booleans_count_as_shares():
    metric = RowMean()
    metric.update([True, False, False, True])
    assert metric.compute() == 0.5


def test_no_rows_give_nan():
    metric = RowMean()
    metric.update([])
    assert metric.compute().isnan()
