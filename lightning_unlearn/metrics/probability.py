"""Probability of an answer, normalised by its length.

Shapes: B rows. An NLL is the sum of -log p over the labelled tokens of a text, in nats; `tokens` counts them,
eos included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_unlearn.metrics.row_mean import RowMean


def mean_nll(nll: Tensor, tokens: Tensor) -> Tensor:
    """Compute the NLL a token (nats), infinite where there is no token: an absent text has probability 0.

    Args:
        nll: summed NLLs, any shape.
        tokens: labelled tokens of each, same shape.

    Raises:
        ValueError: if the shapes differ or a count is negative.
    """
    if nll.shape != tokens.shape:
        raise ValueError(f"nll and tokens must have one shape, got {tuple(nll.shape)} and {tuple(tokens.shape)}")
    if bool((tokens < 0).any()):
        raise ValueError(f"tokens must be counts of at least 0, got {int(tokens.min())}")
    return torch.where(tokens > 0, nll / tokens.clamp(min=1), torch.full_like(nll, torch.inf))


def answer_probability(nll: Tensor, tokens: Tensor) -> Tensor:
    """Compute exp(-NLL / |s|) of each answer, in [0, 1].

    The geometric mean of the token probabilities, eos counted (TOFU, arXiv 2401.06121, section 2.2.1).

    Args:
        nll: [B] summed NLL of each answer, nats.
        tokens: [B] labelled tokens of each answer.

    Example:
        >>> answer_probability(torch.tensor([2.0]), torch.tensor([2]))
        tensor([0.3679])
    """
    return torch.exp(-mean_nll(nll, tokens))


class Probability(RowMean):
    """Mean over rows of the length-normalised probability of the answer.

    In [0, 1]. On retained data higher is better, on forgotten data lower. Source: TOFU (arXiv 2401.06121).

    Example:
        >>> metric = Probability()
        >>> metric.update(torch.tensor([0.0, 2.0]), torch.tensor([3, 2]))
        >>> metric.compute()
        tensor(0.6839)
    """

    higher_is_better = True

    def update(self, nll: Tensor, tokens: Tensor) -> None:
        """Add rows: summed NLLs [B] in nats and counts of labelled tokens [B]."""
        if bool((tokens < 1).any()):
            raise ValueError(f"tokens must be at least 1 for every answer, got {int(tokens.min())}")
        self.add(answer_probability(nll, tokens))
