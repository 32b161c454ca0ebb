"""Token entropy of an output: does it say something, or repeat itself?

Not to be confused with the entropy of the model's predictions, which samples call `token_predictive_entropy`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def token_entropy(tokens: Sequence[Hashable]) -> float:
    """Compute the entropy of an output's unigram distribution over log2 of its length, in [0, 1].

    1 when no token repeats; 0 when one token is repeated throughout, or for one token or fewer.
    Source: closer-look (arXiv 2410.08109, section 3).

    Args:
        tokens: the generated tokens (ids or strings), eos not among them.

    Example:
        >>> token_entropy(["the", "the", "cat", "sat"])
        0.75
    """
    if len(tokens) < 2:
        return 0.0
    shares = [count / len(tokens) for count in Counter(tokens).values()]
    return max(0.0, -sum(share * math.log2(share) for share in shares)) / math.log2(len(tokens))


def _token_entropy_update(outputs: Sequence[Sequence[Hashable]]) -> tuple[float, int]:
    return sum(token_entropy(tokens) for tokens in outputs), len(outputs)


def _token_entropy_compute(total: Tensor, rows: Tensor) -> Tensor:
    return total / rows


class TokenEntropy(Metric):
    """Mean over rows of the normalised unigram entropy of the generated tokens.

    In [0, 1]; higher is better (fluent, not repetitive). Source: closer-look (arXiv 2410.08109).

    Example:
        >>> metric = TokenEntropy()
        >>> metric.update([[1, 2, 3, 4], [7, 7, 7]])
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Sequence[Sequence[Hashable]]) -> None:
        """Add rows: the tokens of each output."""
        total, rows = _token_entropy_update(outputs)
        self.total = self.total + total
        self.rows = self.rows + rows

    def compute(self) -> Tensor:
        """Return the mean: a scalar, NaN without rows."""
        return _token_entropy_compute(self.total, self.rows)
