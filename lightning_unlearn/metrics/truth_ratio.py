"""Truth ratio: how probable wrong answers are, compared with a paraphrase of the right one.

R = P_wrong / P_right. A model that knows the answer has R near 0; one that cannot tell has R near 1. What counts as
"wrong probability" (geometric or arithmetic mean) and what is made of R (forget set, closer-look's forget set,
elsewhere) are separate functions here, because published numbers use each.

Shapes: B rows, K wrong (perturbed) answers a row. NLLs are sums in nats; an entry with 0 tokens is absent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_unlearn.metrics.probability import mean_nll

RatioFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def geometric_truth_ratio(nll: Tensor, tokens: Tensor, wrong_nll: Tensor, wrong_tokens: Tensor) -> Tensor:
    """Compute R of each row with the geometric mean of the wrong answers' probabilities: [B], 0 or more.

    The form of the TOFU leaderboard, open-unlearning and closer-look.

    Args:
        nll: [B] summed NLL of the paraphrased right answer, nats.
        tokens: [B] its labelled tokens.
        wrong_nll: [B, K] of the perturbed answers.
        wrong_tokens: [B, K], 0 where a row has fewer than K of them.

    Raises:
        ValueError: if a row has no wrong answer, or shapes differ.

    Example:
        >>> half = -torch.log(torch.tensor([0.5]))  # the NLL of probability 1/2
        >>> one = torch.ones(1, dtype=torch.long)
        >>> geometric_truth_ratio(half, one, torch.stack([half, 3 * half], 1), one.expand(1, 2))
        tensor([0.5000])
    """
    right, wrong, counts = _mean_nlls(nll, tokens, wrong_nll, wrong_tokens)
    present = wrong_tokens > 0
    return torch.exp(right - torch.where(present, wrong, 0.0).sum(1) / counts)


def arithmetic_truth_ratio(nll: Tensor, tokens: Tensor, wrong_nll: Tensor, wrong_tokens: Tensor) -> Tensor:
    """Compute R of each row with the arithmetic mean of the wrong answers' probabilities: [B], 0 or more.

    The form of the TOFU paper and of one file of its code. Arguments and errors as for `geometric_truth_ratio`.

    Example:
        >>> half = -torch.log(torch.tensor([0.5]))  # the NLL of probability 1/2
        >>> one = torch.ones(1, dtype=torch.long)
        >>> arithmetic_truth_ratio(half, one, torch.stack([half, 3 * half], 1), one.expand(1, 2))
        tensor([0.6250])
    """
    right, wrong, counts = _mean_nlls(nll, tokens, wrong_nll, wrong_tokens)
    return torch.exp(right + torch.logsumexp(-wrong, 1) - torch.log(counts))


def ratio_closeness(ratio: Tensor) -> Tensor:
    """Compute min(R, 1/R): 1 where right and wrong answers are equally probable, 0 where one is certain.

    Its mean is the truth ratio of the forget set (TOFU, open-unlearning); higher means more forgotten.

    Example:
        >>> ratio_closeness(torch.tensor([0.5, 2.0, 0.0]))
        tensor([0.5000, 0.5000, 0.0000])
    """
    return torch.minimum(ratio, 1 / ratio)


def ratio_distance(ratio: Tensor) -> Tensor:
    """Compute 1 - min(R, 1/R), whose mean is closer-look's truth ratio of the forget set; lower means more forgotten.

    Source: arXiv 2410.08109, section 3.

    Example:
        >>> ratio_distance(torch.tensor([0.25, 4.0]))
        tensor([0.7500, 0.7500])
    """
    return 1 - ratio_closeness(ratio)


def ratio_utility(ratio: Tensor) -> Tensor:
    """Compute max(0, 1 - R), whose mean is the truth ratio of every set but the forget set; higher is better.

    Example:
        >>> ratio_utility(torch.tensor([0.25, 4.0]))
        tensor([0.7500, 0.0000])
    """
    return torch.clamp(1 - ratio, min=0)


def ratio_preference(ratio: Tensor) -> Tensor:
    """Compute 1/(1 + R) = P_right / (P_right + P_wrong): 1 where the right answer alone is probable, 1/2 at R = 1.

    Lower means more forgotten. Source: open-unlearning (arXiv 2506.12618), as a measure of memorisation.

    Example:
        >>> ratio_preference(torch.tensor([0.0, 1.0, 3.0]))
        tensor([1.0000, 0.5000, 0.2500])
    """
    return 1 / (1 + ratio)


def _mean_nlls(nll: Tensor, tokens: Tensor, wrong_nll: Tensor, wrong_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if wrong_nll.ndim != 2 or len(wrong_nll) != len(nll):
        raise ValueError(
            f"wrong_nll must have shape [{len(nll)}, K] beside nll [{len(nll)}], got {tuple(wrong_nll.shape)}"
        )
    counts = (wrong_tokens > 0).sum(1).to(nll.dtype)  # [B]
    without = (counts == 0).nonzero().flatten().tolist()
    if without:
        raise ValueError(f"wrong_tokens must hold at least one wrong answer a row, got none in rows {without[:10]}")
    return mean_nll(nll, tokens), mean_nll(wrong_nll, wrong_tokens), counts


def _truth_ratio_update(ratio: Tensor, row_score: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
    return row_score(ratio).sum(), ratio.numel()


def _truth_ratio_compute(total: Tensor, rows: Tensor) -> Tensor:
    return total / rows


class TruthRatio(Metric):
    """Mean over rows of a score of the truth ratio R; in [0, 1] with the scores of this file.

    Args:
        ratio: what R is: `geometric_truth_ratio` or `arithmetic_truth_ratio`.
        row_score: what is averaged: `ratio_utility` (higher is better), `ratio_closeness` (forget set, higher means
            more forgotten) or `ratio_distance` (closer-look's forget set, lower means more forgotten).

    Example:
        >>> metric = TruthRatio()
        >>> one = torch.ones(1, dtype=torch.long)
        >>> metric.update(torch.tensor([1.0]), one, torch.tensor([[3.0]]), one.view(1, 1))
        >>> metric.compute()
        tensor(0.8647)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(
        self,
        *,
        ratio: RatioFunction = geometric_truth_ratio,
        row_score: Callable[[Tensor], Tensor] = ratio_utility,
    ) -> None:
        super().__init__()
        self.ratio = ratio
        self.row_score = row_score
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, nll: Tensor, tokens: Tensor, wrong_nll: Tensor, wrong_tokens: Tensor) -> None:
        """Add rows: see `geometric_truth_ratio` for the shapes."""
        total, rows = _truth_ratio_update(self.ratio(nll, tokens, wrong_nll, wrong_tokens), self.row_score)
        self.total = self.total + total
        self.rows = self.rows + rows

    def compute(self) -> Tensor:
        """Return the mean score: a scalar, NaN without rows."""
        return _truth_ratio_compute(self.total, self.rows)
