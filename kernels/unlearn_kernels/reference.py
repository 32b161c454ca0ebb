"""Dense definitions of every statistic in plain PyTorch: the truth in tests, the baseline in benchmarks.

Everything here holds [N, V] and leaves gradients to autograd. Shapes: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from unlearn_kernels.statistics import TokenStatistics


class Dense:
    """The dense tensors that the definitions share, each computed when first asked for.

    Args:
        logits: z, [N, V].
        labels: y, [N], within the vocabulary.
        reference_logits: r, [N, V], or None.
    """

    def __init__(self, logits: Tensor, labels: Tensor, reference_logits: Tensor | None = None):
        self.z, self.y = logits, labels.unsqueeze(1)
        self.r = None if reference_logits is None else reference_logits.detach()

    @cached_property
    def log_p(self) -> Tensor:
        """Log-softmax of z."""
        return self.z.log_softmax(-1)

    @cached_property
    def p(self) -> Tensor:
        """Softmax of z."""
        return self.log_p.exp()

    @cached_property
    def log_q(self) -> Tensor:
        """Log-softmax of r."""
        assert self.r is not None
        return self.r.log_softmax(-1)

    @cached_property
    def others(self) -> Tensor:
        """The logits with minus infinity at the label."""
        return self.z.scatter(1, self.y, float("-inf"))


def log_prob(d: Dense) -> Tensor:
    """The log p_y."""
    return d.log_p.gather(1, d.y).squeeze(1)


def log_partition(d: Dense) -> Tensor:
    """The log sum exp z."""
    return d.z.logsumexp(-1)


def entropy(d: Dense) -> Tensor:
    """H(p)."""
    return -(d.p * d.log_p).sum(-1)


def uniform_kl(d: Dense) -> Tensor:
    """KL(U || p)."""
    return d.z.logsumexp(-1) - d.z.mean(-1) - math.log(d.z.shape[-1])


def reference_kl(d: Dense) -> Tensor:
    """KL(q || p)."""
    return (d.log_q.exp() * (d.log_q - d.log_p)).sum(-1)


def reverse_kl(d: Dense) -> Tensor:
    """KL(p || q)."""
    return (d.p * (d.log_p - d.log_q)).sum(-1)


def reference_cross_entropy(d: Dense) -> Tensor:
    """-sum q log p."""
    return -(d.log_q.exp() * d.log_p).sum(-1)


def reference_log_prob(d: Dense) -> Tensor:
    """The log q_y."""
    return d.log_q.gather(1, d.y).squeeze(1)


def max_logit(d: Dense) -> Tensor:
    """Largest z."""
    return d.z.max(-1).values


def mean_logit(d: Dense) -> Tensor:
    """Average of z."""
    return d.z.mean(-1)


def log_complement(d: Dense) -> Tensor:
    """The log(1 - p_y) = log sum over v != y of p_v."""
    return d.others.logsumexp(-1) - d.z.logsumexp(-1)


def top_other_log_prob(d: Dense) -> Tensor:
    """Largest log p_v over v != y."""
    return d.others.max(-1).values - d.z.logsumexp(-1)


def log_prob_variance(d: Dense) -> Tensor:
    """Var_p[log p]."""
    return (d.p * (d.log_p + entropy(d).unsqueeze(1)).square()).sum(-1).detach()


def top_token(d: Dense) -> Tensor:
    """Column of the largest z."""
    return d.z.argmax(-1)


DEFINITIONS: dict[str, Callable[[Dense], Tensor]] = {
    f.__name__: f
    for f in (
        log_prob,
        log_partition,
        entropy,
        uniform_kl,
        reference_kl,
        reverse_kl,
        reference_cross_entropy,
        reference_log_prob,
        max_logit,
        mean_logit,
        log_complement,
        top_other_log_prob,
        log_prob_variance,
        top_token,
    )
}


def dense_token_statistics(
    logits: Tensor,
    labels: Tensor,
    *,
    statistics: Sequence[str] = ("log_prob", "entropy"),
    reference_logits: Tensor | None = None,
    ignore_index: int = -100,
) -> TokenStatistics:
    """Compute what `token_statistics` computes, from dense tensors of the logits' own dtype.

    Args:
        logits: [N, V].
        labels: [N].
        statistics: fields of `TokenStatistics`.
        reference_logits: [N, V].
        ignore_index: label of tokens that give 0.
    """
    keep = labels != ignore_index
    dense = Dense(logits, labels.where(keep, 0), reference_logits)
    values = {name: DEFINITIONS[name](dense) for name in statistics}
    return TokenStatistics(**{name: value.where(keep, 0) for name, value in values.items()})


def dense_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """Form softcap(logit_scale (hidden weight^T + bias)) / temperature in the inputs' dtype, then float32, [N, V].

    Args:
        hidden: [N, D].
        weight: [V, D].
        bias: [V].
        softcap: z <- softcap * tanh(z / softcap).
        logit_scale: z <- logit_scale * z.
        temperature: z <- z / temperature.
    """
    z = torch.nn.functional.linear(hidden, weight, bias)
    z = (z if z.dtype == torch.float64 else z.float()) * logit_scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return z / temperature


def dense_linear_token_statistics(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    statistics: Sequence[str] = ("log_prob", "entropy"),
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    temperature: float = 1.0,
    reference_hidden: Tensor | None = None,
    reference_weight: Tensor | None = None,
    reference_bias: Tensor | None = None,
    ignore_index: int = -100,
) -> TokenStatistics:
    """Compute what `linear_token_statistics` computes, the plain way; the arguments are the same."""
    options = {"softcap": softcap, "logit_scale": logit_scale, "temperature": temperature}
    reference_logits = None
    if reference_hidden is not None:
        if reference_weight is None:
            reference_weight, reference_bias = weight, bias if reference_bias is None else reference_bias
        with torch.no_grad():
            reference_logits = dense_logits(reference_hidden, reference_weight, reference_bias, **options)
    return dense_token_statistics(
        dense_logits(hidden, weight, bias, **options),
        labels,
        statistics=statistics,
        reference_logits=reference_logits,
        ignore_index=ignore_index,
    )
