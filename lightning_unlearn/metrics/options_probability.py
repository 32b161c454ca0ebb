"""Probability of the true answer among a few given answers.

Shapes: B rows, K wrong answers a row. NLLs are sums in nats; an entry with 0 tokens is absent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_unlearn.metrics.probability import mean_nll
from lightning_unlearn.metrics.row_mean import RowMean


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


class OptionsProbability(RowMean):
    """Mean over rows of the true answer's share of the probability of all given answers.

    In [0, 1], higher is better; 1 / (K + 1) is chance. Source: TOFU (arXiv 2401.06121).

    Example:
        >>> metric = OptionsProbability()
        >>> metric.update(torch.tensor([0.0]), torch.tensor([1]), torch.zeros(1, 3), torch.ones(1, 3))
        >>> metric.compute()
        tensor(0.2500)
    """

    higher_is_better = True

    def update(self, nll: Tensor, tokens: Tensor, wrong_nll: Tensor, wrong_tokens: Tensor) -> None:
        """Add rows: see `options_probability` for the shapes."""
        self.add(options_probability(nll, tokens, wrong_nll, wrong_tokens))
