"""Forget quality: can the unlearned model be told from one that never saw the data?"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def ks_p_value(ratios: Tensor, retrained_ratios: Tensor) -> float:
    """Compute the p-value of the two-sample Kolmogorov-Smirnov test between two sets of truth ratios, in [0, 1].

    The null hypothesis is that both come from one distribution: a p-value near 1 means that the models cannot be told
    apart, below 0.05 that forgetting failed. Source: TOFU (arXiv 2401.06121, section 2.2.2); two-sided, scipy's choice
    of the exact or the asymptotic distribution.

    Args:
        ratios: truth ratios on the forget set of the unlearned model, one dimension.
        retrained_ratios: the same of a model trained without the forget set; may be of another length.

    Raises:
        ValueError: if either is empty.

    Example:
        >>> ks_p_value(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
        1.0
    """
    from scipy.stats import ks_2samp

    for name, values in (("ratios", ratios), ("retrained_ratios", retrained_ratios)):
        if not values.numel():
            raise ValueError(f"{name} must hold at least one truth ratio, got none")
    return float(ks_2samp(ratios.double().cpu().numpy(), retrained_ratios.double().cpu().numpy()).pvalue)


class ForgetQuality(Metric):
    """P-value of the Kolmogorov-Smirnov test between the truth ratios on forget of this and of a retrained model.

    In [0, 1], higher is better; published as its logarithm to base 10 at times. Source: TOFU (arXiv 2401.06121).

    Args:
        retrained_ratios: truth ratios on the forget set of the model trained without it, one dimension.

    Example:
        >>> metric = ForgetQuality(torch.tensor([0.1, 0.2, 0.3, 0.4]))
        >>> metric.update(torch.tensor([0.6, 0.7]))
        >>> metric.update(torch.tensor([0.8, 0.9]))
        >>> metric.compute()
        tensor(0.0286, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    ratios: list[Tensor] | Tensor

    def __init__(self, retrained_ratios: Tensor) -> None:
        super().__init__()
        self.retrained_ratios = retrained_ratios
        self.add_state("ratios", [], dist_reduce_fx="cat")

    def update(self, ratios: Tensor) -> None:
        """Add truth ratios [B] of rows of the forget set."""
        assert isinstance(self.ratios, list)  # a list until states are synchronised
        self.ratios.append(ratios)

    def compute(self) -> Tensor:
        """Return the p-value as a float64 scalar (p-values below 1e-38 are common)."""
        joined = torch.cat(self.ratios) if isinstance(self.ratios, list) and self.ratios else self.ratios
        if not isinstance(joined, Tensor):
            raise ValueError("compute needs at least one update with truth ratios, got none")
        return torch.tensor(ks_p_value(joined, self.retrained_ratios), dtype=torch.float64)
