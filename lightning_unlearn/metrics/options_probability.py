"""Probability of the true answer among a few given answers.

Shapes: B rows, K wrong answers a row. NLLs are sums in nats; an entry with 0 tokens is absent.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_unlearn.metrics.probability import mean_nll


def options_probability(nll: Tensor, tokens: Tensor, wrong_nll: Tensor, wrong_tokens: Tensor) -> Tensor:
    """Compute P_true / (P_true + sum of P_wrong) of each row, with length-normalised probabilities P; in [0, 1].

    TOFU (arXiv 2401.06121, section 2.2.1) scores real authors and world facts so.

    Args:
        nll: [B] summed NLL of the true answer, nats.
        tokens: [B] its labelled tokens.
        wrong_nll: [B, K] of the wrong answers.
        wrong_tokens: [B, K], 0 where a row has fewer than K wrong answers.

    Example:
        >>> options_probability(torch.tensor([0.0]), torch.tensor([1]), torch.zeros(1, 3), torch.ones(1, 3))
        tensor([0.2500])
    """
    true = -mean_nll(nll, tokens)  # [B], log
    wrong = -mean_nll(wrong_nll, wrong_tokens)  # [B, K], log
    return torch.softmax(torch.cat([true.unsqueeze(1), wrong], 1), 1)[:, 0]


def _options_update(nll: Tensor, tokens: Tensor, wrong_nll: Tensor, wrong_tokens: Tensor) -> tuple[Tensor, int]:
    return options_probability(nll, tokens, wrong_nll, wrong_tokens).sum(), nll.numel()


def _options_compute(total: Tensor, rows: Tensor) -> Tensor:
    return total / rows


class OptionsProbability(Metric):
    """Mean over rows of the true answer's share of the probability of all given answers.

    In [0, 1], higher is better; 1 / (K + 1) is chance. Source: TOFU (arXiv 2401.06121).

    Example:
        >>> metric = OptionsProbability()
        >>> metric.update(torch.tensor([0.0]), torch.tensor([1]), torch.zeros(1, 3), torch.ones(1, 3))
        >>> metric.compute()
        tensor(0.2500)
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

    def update(self, nll: Tensor, tokens: Tensor, wrong_nll: Tensor, wrong_tokens: Tensor) -> None:
        """Add rows: see `options_probability` for the shapes."""
        total, rows = _options_update(nll, tokens, wrong_nll, wrong_tokens)
        self.total = self.total + total
        self.rows = self.rows + rows

    def compute(self) -> Tensor:
        """Return the mean: a scalar, NaN without rows."""
        return _options_compute(self.total, self.rows)
