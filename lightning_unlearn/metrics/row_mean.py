"""The mean of one number a row, whatever the number is: what most metrics here are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RowMean(Metric):
    """Mean of a value over rows, exact over ranks with different numbers of rows.

    A metric derives from it, and its `update` adds the values of rows.

    Example:
        >>> metric = RowMean()
        >>> metric.update([1.0, 0.0, 0.5])
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, values: Sequence[float] | Tensor) -> None:
        """Add one value a row."""
        values = torch.as_tensor(values, dtype=self.total.dtype)
        self.total = self.total + values.sum()
        self.rows = self.rows + values.numel()

    def update(self, *values: Any, **options: Any) -> None:
        """Add one value a row; a metric that derives from this one takes arguments of its own."""
        self.add(*values, **options)

    def compute(self) -> Tensor:
        """Return the mean over rows: a scalar, NaN without rows."""
        return self.total / self.rows
