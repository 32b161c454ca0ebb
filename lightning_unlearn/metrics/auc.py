"""AUC of a membership attack: can texts that a model was trained on be told from others?"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def auc(members: Tensor, non_members: Tensor) -> float:
    """Compute the probability that a member scores higher than a non-member, ties counting half; in [0, 1].

    1 where members are told from non-members, 0.5 where they cannot be, 0 where they are told by scoring lower, as
    texts do that were forgotten too hard. Scores are higher for members (`lightning_unlearn.metrics.membership`). It is
    the Mann-Whitney U statistic over the number of pairs, and the area under the ROC curve.

    Args:
        members: [B] scores of texts that the model was trained on, or was made to forget.
        non_members: [C] scores of texts that it has never met.

    Raises:
        ValueError: if either is empty, or a score is NaN.

    Example:
        >>> auc(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0]))
        0.875
    """
    for name, values in (("members", members), ("non_members", non_members)):
        if not values.numel() or bool(values.isnan().any()):
            raise ValueError(f"{name} must hold at least one score and no NaN, got {values.numel()} scores")
    ordered = non_members.sort().values
    below, not_above = (torch.searchsorted(ordered, members, right=right) for right in (False, True))
    return ((below + not_above).double().mean() / (2 * len(ordered))).item()


def auc_closeness(value: float, retrained: float) -> float:
    """Compute how close an AUC is to that of a retrained model, as a share of the largest distance possible: in [0, 1].

    1 - |AUC - AUC_retrained| / max(AUC_retrained, 1 - AUC_retrained): 1 where both are equal, whatever they are; less
    for a model that still knows, and for one that forgot too hard.

    Args:
        value: AUC of the unlearned model, in [0, 1].
        retrained: AUC of a model trained without the members.

    Example:
        >>> auc_closeness(0.75, 0.5)
        0.5
    """
    return 1 - abs(value - retrained) / max(retrained, 1 - retrained)


def priv_leak(value: float, retrained: float) -> float:
    """Compute PrivLeak in percent: 0 is best, below 0 the forgotten texts are still known, above 0 they stand out.

    100 (A - A_retrained) / A_retrained with MUSE's own A = 1 - AUC, in which non-members score higher (MUSE, arXiv
    2407.06460): -100 is the least there is.

    Args:
        value: AUC of the unlearned model, members scoring higher, as everywhere in this package.
        retrained: AUC of a model trained without the members.

    Raises:
        ValueError: if `retrained` is 1, where it is undefined.

    Example:
        >>> priv_leak(1.0, 0.5), priv_leak(0.5, 0.5), priv_leak(0.25, 0.5)
        (-100.0, 0.0, 50.0)
    """
    if retrained >= 1:
        raise ValueError(f"retrained must be an AUC below 1, got {retrained}")
    return 100 * (retrained - value) / (1 - retrained)


class AUC(Metric):
    """AUC of an attack whose scores are higher for members: 1 where it tells them, 0.5 where it cannot.

    Example:
        >>> metric = AUC()
        >>> metric.update(torch.tensor([3.0]), torch.tensor([1.0, 0.0]))
        >>> metric.update(torch.tensor([1.0]), torch.tensor([]))
        >>> metric.compute()
        tensor(0.8750)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    members: list[Tensor]
    non_members: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("members", [], dist_reduce_fx="cat")
        self.add_state("non_members", [], dist_reduce_fx="cat")

    def update(self, members: Tensor, non_members: Tensor) -> None:
        """Add scores of members [B] and of non-members [C]; either may be empty."""
        self.members.append(members)
        self.non_members.append(non_members)

    def compute(self) -> Tensor:
        """Return the AUC of all scores: a scalar."""
        return torch.tensor(auc(*(dim_zero_cat(scores) for scores in (self.members, self.non_members))))
