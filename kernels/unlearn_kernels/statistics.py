"""The record that every operation of this package returns, and what each of its fields means.

z logits of one token over V vocabulary entries, p = softmax(z), r the frozen reference's logits, q = softmax(r), y the
label. Natural logarithms. A field that was not asked for is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class TokenStatistics(NamedTuple):
    """Per-token statistics of the vocabulary distribution, each a float32 [N] tensor (float64 for float64 inputs).

    Attributes:
        log_prob: log p_y. Gradient 1[v=y] - p_v.
        log_partition: log sum_v exp(z_v). Gradient p_v.
        entropy: H(p) = -sum_v p_v log p_v. Gradient -p_v (log p_v + H).
        uniform_kl: KL(U || p) = log_partition - mean(z) - log V, U uniform. Gradient p_v - 1/V.
        reference_kl: KL(q || p). Gradient p_v - q_v.
        reverse_kl: KL(p || q). Gradient p_v (log p_v - log q_v - KL).
        reference_cross_entropy: -sum_v q_v log p_v. Gradient p_v - q_v.
        reference_log_prob: log q_y. No gradient.
        max_logit: max_v z_v. Gradient one-hot.
        mean_logit: mean_v z_v. Gradient 1/V.
        log_complement: log(1 - p_y), summed over v != y, so exact where p_y rounds to 1. Gradient -p_y at y and
            p_y p_v / (1 - p_y) elsewhere.
        top_other_log_prob: max over v != y of log p_v. Gradient one-hot - p_v.
        log_prob_variance: variance of log p_v under p. No gradient.
        top_token: argmax_v z_v, int64; the smallest index among equals. No gradient.
    """

    log_prob: Tensor | None = None
    log_partition: Tensor | None = None
    entropy: Tensor | None = None
    uniform_kl: Tensor | None = None
    reference_kl: Tensor | None = None
    reverse_kl: Tensor | None = None
    reference_cross_entropy: Tensor | None = None
    reference_log_prob: Tensor | None = None
    max_logit: Tensor | None = None
    mean_logit: Tensor | None = None
    log_complement: Tensor | None = None
    top_other_log_prob: Tensor | None = None
    log_prob_variance: Tensor | None = None
    top_token: Tensor | None = None


FIELDS: tuple[str, ...] = TokenStatistics._fields
NEED_REFERENCE = frozenset({"reference_kl", "reverse_kl", "reference_cross_entropy", "reference_log_prob"})
NEED_LABEL = frozenset({"log_prob", "reference_log_prob", "log_complement", "top_other_log_prob"})
NOT_DIFFERENTIABLE = frozenset({"reference_log_prob", "log_prob_variance", "top_token"})
REFERENCE_GRADIENT = NEED_REFERENCE - NOT_DIFFERENTIABLE  # backward needs the reference's logits again


def check_statistics(statistics: Sequence[str], has_reference: bool) -> tuple[str, ...]:
    """Return the requested fields without repeats, in the order of `TokenStatistics`.

    Args:
        statistics: names of fields.
        has_reference: whether reference hidden states (or logits) were given.

    Raises:
        ValueError: nothing or an unknown field was asked for, or a reference field without a reference.
    """
    if isinstance(statistics, str) or not statistics:
        raise ValueError(f"statistics: expected a non-empty sequence of field names, got {statistics!r}")
    unknown = [name for name in statistics if name not in FIELDS]
    if unknown:
        raise ValueError(f"statistics: expected names among {', '.join(FIELDS)}, got {unknown}")
    lacking = [name for name in statistics if name in NEED_REFERENCE]
    if lacking and not has_reference:
        raise ValueError(f"statistics: {lacking} need a reference (reference_hidden or reference_logits), got None")
    return tuple(name for name in FIELDS if name in statistics)
