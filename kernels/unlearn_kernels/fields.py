"""From merged sums to the value of every field, and to the numbers that make every field's gradient.

All here are [N] vectors; the work on [N, C] slices is in `passes.py`. Upstream gradients of several fields combine
before any slice is touched: with d_v = z_v - max_{w != y} z_w and e_v = exp(d_v), the gradient of any mix of fields is

    dz_v = e_v (a + b d_v + v delta_v) + k (p_v - q_v) + c   for v != y,      delta_v = log p_v - log q_v,

plus one-hot terms, and a number of its own at v = y. 1 - p_y and p_y come from the margin
z_y - log sum_{v != y} exp(z_v), never from 1 - exp(log_prob).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from unlearn_kernels.merge import Partial, Side, Wants, known, merge, single
from unlearn_kernels.statistics import REFERENCE_GRADIENT


def wanted_sums(statistics: tuple[str, ...]) -> tuple[Wants, Wants]:
    """Which sums over p's and over q's columns the fields need, for their values and their gradients."""
    names = set(statistics)
    own = Wants(
        logit_sum=bool(names & {"uniform_kl", "mean_logit"}),
        first=bool(names & {"entropy", "log_prob_variance"}),
        second="log_prob_variance" in names,
        gap="reverse_kl" in names,
        index=bool(names & {"max_logit", "top_other_log_prob", "top_token"}),
    )
    cross = "reference_cross_entropy" in names
    forward = cross or "reference_kl" in names
    return own, Wants(first=cross, gap=forward, excess=forward or "reverse_kl" in names)


T = TypeVar("T")


class _Once(Generic[T]):
    """A `functools.cached_property` without its lock (of Python < 3.12), which torch.compile cannot trace."""

    def __init__(self, function: Callable[..., T]):
        self.function, self.name = function, function.__name__

    def __get__(self, instance: object, owner: type) -> T:
        value = self.function(instance)
        setattr(instance, self.name, value)
        return value


@dataclass
class Coefficients:
    """The numbers of the gradient formula above, [N] each; None stands for a term that is absent.

    Attributes:
        label: the whole gradient at v = y, one-hot terms apart.
        label_logit: z_y.
        centre: d_v = z_v - centre.
        p_scale: p_v = p_scale e_v.
        a: factor of e_v.
        b: factor of e_v d_v.
        v: factor of e_v delta_v.
        k: factor of p_v - q_v.
        c: constant over the vocabulary.
        gap: delta_v = (z_v - r_v) - gap; None without a reference.
        q_scale: the reference's p_scale; None without one.
        reference_centre: the reference's centre; None without one.
        one_hots: (column, value) pairs to add.
    """

    label: Tensor
    label_logit: Tensor
    centre: Tensor
    p_scale: Tensor
    a: Tensor | None = None
    b: Tensor | None = None
    v: Tensor | None = None
    k: Tensor | None = None
    c: Tensor | None = None
    gap: Tensor | None = None
    q_scale: Tensor | None = None
    reference_centre: Tensor | None = None
    one_hots: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def rows(self, rows: slice) -> Coefficients:
        """The coefficients of some tokens."""
        names = [field.name for field in fields(self) if field.name != "one_hots"]
        cut = {name: None if (x := getattr(self, name)) is None else x[rows] for name in names}
        return Coefficients(**cut, one_hots=[(index[rows], value[rows]) for index, value in self.one_hots])


@dataclass
class Summary:
    """All that is known of each token after one pass over the vocabulary; a method a field, as `TokenStatistics` says.

    Attributes:
        own: sums and label logit of the model.
        reference: those of the reference, or None.
        labels: y.
        vocabulary: V.
    """

    own: Side
    reference: Side | None
    labels: Tensor
    vocabulary: int | Tensor

    @_Once
    def label_gap(self) -> Tensor | None:
        """z_y - r_y."""
        return None if self.reference is None else self.own.label - self.reference.label

    @_Once
    def p(self) -> Partial:
        """Sums of the model over the whole vocabulary."""
        return self._with_label(self.own)

    @_Once
    def q(self) -> Partial:
        """Sums of the reference over the whole vocabulary."""
        assert self.reference is not None
        return self._with_label(self.reference)

    def _with_label(self, side: Side) -> Partial:
        return merge(side.others, single(side.others, side.label, self.label_gap, self.labels))

    @_Once
    def margin(self) -> Tensor:
        """z_y - log sum_{v != y} exp(z_v) = log(p_y / (1 - p_y))."""
        return _margin(self.own)

    @_Once
    def partition_gap(self) -> Tensor:
        """The difference log sum exp(z) - log sum exp(r), as log E_q[exp(z - r)] where the models are close.

        Near p = q that keeps the digits of z - r, which a difference of two logarithms loses.
        """
        excess = known(self.q.excess) / self.q.total
        far = (self.p.total / self.q.total).log() + (self.p.maximum - self.q.maximum)
        return torch.where(excess.abs() < 0.5, excess.log1p(), far)

    def log_prob(self) -> Tensor:
        """The field."""
        return logsigmoid(self.margin)

    def log_complement(self) -> Tensor:
        """The field."""
        return logsigmoid(-self.margin)

    def log_partition(self) -> Tensor:
        """The field."""
        return self.p.maximum + self.p.total.log()

    def entropy(self) -> Tensor:
        """The field."""
        return (self.p.total.log() - known(self.p.first) / self.p.total).clamp_min(0)

    def uniform_kl(self) -> Tensor:
        """The field."""
        centred_mean = self.mean_logit() - self.p.maximum
        return ((self.p.total / self.vocabulary).log() - centred_mean).clamp_min(0)

    def reference_kl(self) -> Tensor:
        """The field."""
        return (self.partition_gap - known(self.q.gap) / self.q.total).clamp_min(0)

    def reverse_kl(self) -> Tensor:
        """The field."""
        return (known(self.p.gap) / self.p.total - self.partition_gap).clamp_min(0)

    def reference_cross_entropy(self) -> Tensor:
        """The field, as H(q) + KL(q || p)."""
        return self.q.total.log() - known(self.q.first) / self.q.total + self.reference_kl()

    def reference_log_prob(self) -> Tensor:
        """The field."""
        assert self.reference is not None
        return logsigmoid(_margin(self.reference))

    def max_logit(self) -> Tensor:
        """The field."""
        return self.p.maximum

    def mean_logit(self) -> Tensor:
        """The field."""
        return known(self.p.logit_sum) / self.vocabulary

    def top_other_log_prob(self) -> Tensor:
        """The field."""
        return (self.own.others.maximum - self.p.maximum) - self.p.total.log()

    def log_prob_variance(self) -> Tensor:
        """The field."""
        return known(self.p.second) / self.p.total

    def top_token(self) -> Tensor:
        """The field."""
        return known(self.p.index)

    def coefficients(self, upstream: Mapping[str, Tensor]) -> Coefficients:
        """Combine the upstream gradients of all fields into one set of coefficients.

        Args:
            upstream: gradient of the loss with respect to each field that has one, [N].
        """
        zero = torch.zeros_like(self.margin)

        def g(name: str) -> Tensor:
            return upstream.get(name, zero)

        others, p_label = self.own.others, self.margin.sigmoid()
        p_scale = (-self.margin).sigmoid() / others.total
        shared = g("log_partition") + g("uniform_kl") - g("top_other_log_prob")
        constant = (g("mean_logit") - g("uniform_kl")) / self.vocabulary
        label = shared * p_label + g("log_prob") * (-self.margin).sigmoid() + constant
        result = Coefficients(label, self.own.label, others.maximum, p_scale, one_hots=self._one_hots(upstream))
        result.a = (shared - g("log_prob")) * p_scale
        if "log_complement" in upstream:
            weight = g("log_complement") * p_label
            result.a = known(result.a) + weight / others.total
            result.label = result.label - weight
        if "entropy" in upstream:  # log p_v = d_v + log_complement - log(total over v != y)
            value, weight = self.entropy(), g("entropy") * p_scale
            result.a = known(result.a) - weight * (value + self.log_complement() - others.total.log())
            result.b = -weight
            result.label = result.label - g("entropy") * p_label * (value + self.log_prob())
        if self.reference is not None and upstream.keys() & REFERENCE_GRADIENT:
            self._add_reference(result, upstream, self.reference)
        if not upstream.keys() - {"mean_logit", "max_logit", "reference_kl", "reference_cross_entropy"}:
            result.a = None
        if upstream.keys() & {"mean_logit", "uniform_kl"}:
            result.c = constant
        return result

    def _add_reference(self, result: Coefficients, upstream: Mapping[str, Tensor], reference: Side) -> None:
        p_label, delta = self.margin.sigmoid(), known(self.label_gap) - self.partition_gap  # log p_y - log q_y
        result.gap = self.partition_gap
        result.q_scale = (-_margin(reference)).sigmoid() / reference.others.total
        result.reference_centre = reference.others.maximum
        if "reverse_kl" in upstream:
            value, g = self.reverse_kl(), upstream["reverse_kl"]
            result.v = g * result.p_scale
            result.a = known(result.a) - result.v * value
            result.label = result.label + g * p_label * (delta - value)
        forward = [upstream[name] for name in ("reference_kl", "reference_cross_entropy") if name in upstream]
        if forward:
            result.k = sum(forward[1:], forward[0])
            both = p_label + _margin(reference).sigmoid()
            result.label = result.label + result.k * both * (delta / 2).tanh()

    def _one_hots(self, upstream: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        pairs = []
        if "max_logit" in upstream:
            pairs.append((known(self.p.index), upstream["max_logit"]))
        if "top_other_log_prob" in upstream:
            pairs.append((known(self.own.others.index), upstream["top_other_log_prob"]))
        return pairs


def _margin(side: Side) -> Tensor:
    return (side.label - side.others.maximum) - side.others.total.log()
