"""From merged sums to the value of every field, and to the numbers that make every field's gradient.

All here are [N] vectors; the work on [N, C] slices is in `passes.py`. Upstream gradients of several fields combine before
any slice is touched: with d_v = z_v - max_{w != y} z_w and e_v = exp(d_v), the gradient of any mix of fields is

    dz_v = e_v (a + b d_v + v delta_v) + k (p_v - q_v) + c   for v != y,      delta_v = log p_v - log q_v,

plus one-hot terms, and a number of its own at v = y. 1 - p_y and p_y come from the margin z_y - log sum_{v != y} e^{z_v},
never from 1 - exp(log_prob).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from unlearn_kernels.merge import Partial, Wants, merge, single


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
    return own, Wants(first=cross, gap=cross or "reference_kl" in names)


@dataclass
class Coefficients:
    """The numbers of the gradient formula above, [N] each; None stands for a term that is absent.

    Attributes:
        a: factor of e_v.
        b: factor of e_v d_v.
        v: factor of e_v delta_v.
        k: factor of p_v - q_v.
        c: constant over the vocabulary.
        label: the whole gradient at v = y, one-hot terms apart.
        shift: delta_v = (d_v of the model - d_v of the reference) + shift; None without a reference.
        p_scale: p_v = p_scale e_v.
        q_scale: the same of the reference; None without one.
        one_hots: (column, value) pairs to add.
    """

    a: Tensor | None
    b: Tensor | None
    v: Tensor | None
    k: Tensor | None
    c: Tensor | None
    label: Tensor
    shift: Tensor | None
    p_scale: Tensor
    q_scale: Tensor | None
    one_hots: list[tuple[Tensor, Tensor]]

    def rows(self, rows: slice) -> Coefficients:
        """The coefficients of some tokens."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "one_hots"}
        cut = {name: None if x is None else x[rows] for name, x in parts.items()}
        return Coefficients(**cut, one_hots=[(index[rows], value[rows]) for index, value in self.one_hots])


@dataclass
class Summary:
    """All that is known of each token after one pass over the vocabulary.

    Attributes:
        others: sums over v != y.
        label_logit: z_y.
        label: y.
        vocabulary: V.
        other_reference: the reference's sums over v != y, or None.
        label_reference: r_y, or None.
    """

    others: Partial
    label_logit: Tensor
    label: Tensor
    vocabulary: int | Tensor
    other_reference: Partial | None = None
    label_reference: Tensor | None = None

    @cached_property
    def label_gap(self) -> Tensor | None:
        """z_y - r_y."""
        return None if self.label_reference is None else self.label_logit - self.label_reference

    @cached_property
    def whole(self) -> Partial:
        """Sums over the whole vocabulary."""
        return merge(self.others, single(self.others, self.label_logit, self.label_gap, self.label))

    @cached_property
    def reference(self) -> Partial:
        """The reference's sums over the whole vocabulary."""
        other = self.other_reference
        return merge(other, single(other, self.label_reference, self.label_gap, self.label))

    @cached_property
    def margin(self) -> Tensor:
        """z_y - log sum_{v != y} exp(z_v) = log(p_y / (1 - p_y))."""
        return (self.label_logit - self.others.maximum) - self.others.total.log()

    @cached_property
    def reference_margin(self) -> Tensor:
        """The same of the reference."""
        return (self.label_reference - self.other_reference.maximum) - self.other_reference.total.log()

    @cached_property
    def log_normaliser_gap(self) -> Tensor:
        """log sum exp(z) - log sum exp(r)."""
        own, reference = self.whole, self.reference
        return (own.total / reference.total).log() + (own.maximum - reference.maximum)

    def log_prob(self) -> Tensor:
        return logsigmoid(self.margin)

    def log_complement(self) -> Tensor:
        return logsigmoid(-self.margin)

    def log_partition(self) -> Tensor:
        return self.whole.maximum + self.whole.total.log()

    def entropy(self) -> Tensor:
        return (self.whole.total.log() - self.whole.first / self.whole.total).clamp_min(0)

    def uniform_kl(self) -> Tensor:
        centred_mean = self.mean_logit() - self.whole.maximum
        return ((self.whole.total / self.vocabulary).log() - centred_mean).clamp_min(0)

    def reference_kl(self) -> Tensor:
        return (self.log_normaliser_gap - self.reference.gap / self.reference.total).clamp_min(0)

    def reverse_kl(self) -> Tensor:
        return (self.whole.gap / self.whole.total - self.log_normaliser_gap).clamp_min(0)

    def reference_cross_entropy(self) -> Tensor:
        entropy = self.reference.total.log() - self.reference.first / self.reference.total
        return entropy + self.reference_kl()

    def reference_log_prob(self) -> Tensor:
        return logsigmoid(self.reference_margin)

    def max_logit(self) -> Tensor:
        return self.whole.maximum

    def mean_logit(self) -> Tensor:
        return self.whole.logit_sum / self.vocabulary

    def top_other_log_prob(self) -> Tensor:
        return (self.others.maximum - self.whole.maximum) - self.whole.total.log()

    def log_prob_variance(self) -> Tensor:
        return self.whole.second / self.whole.total

    def top_token(self) -> Tensor:
        return self.whole.index

    def coefficients(self, upstream: Mapping[str, Tensor]) -> Coefficients:
        """Combine the upstream gradients of all fields into one set of coefficients.

        Args:
            upstream: gradient of the loss with respect to each field that has one, [N].
        """
        zero = torch.zeros_like(self.margin)

        def g(name: str) -> Tensor:
            return upstream.get(name, zero)

        p_label, p_other = self.margin.sigmoid(), (-self.margin).sigmoid()
        scale = p_other / self.others.total  # p_v = scale * e_v
        shared = g("log_partition") + g("uniform_kl") - g("top_other_log_prob")
        constant = (g("mean_logit") - g("uniform_kl")) / self.vocabulary
        a = (shared - g("log_prob")) * scale
        label = shared * p_label + g("log_prob") * p_other + constant
        b = v = k = shift = q_scale = None
        if "log_complement" in upstream:
            weight = g("log_complement") * p_label
            a, label = a + weight / self.others.total, label - weight
        if "entropy" in upstream:  # log p_v = d_v + log_complement - log(others.total)
            value, weight = self.entropy(), g("entropy") * scale
            a = a - weight * (value + self.log_complement() - self.others.total.log())
            b, label = -weight, label - g("entropy") * p_label * (value + self.log_prob())
        if self.other_reference is not None:
            delta = self.label_gap - self.log_normaliser_gap  # log p_y - log q_y
            shift = (self.others.maximum - self.other_reference.maximum) - self.log_normaliser_gap
            q_scale = (-self.reference_margin).sigmoid() / self.other_reference.total
            if "reverse_kl" in upstream:
                value, weight = self.reverse_kl(), g("reverse_kl") * scale
                a, v = a - weight * value, weight
                label = label + g("reverse_kl") * p_label * (delta - value)
            if upstream.keys() & {"reference_kl", "reference_cross_entropy"}:
                k = g("reference_kl") + g("reference_cross_entropy")
                label = label + k * (p_label + self.reference_log_prob().exp()) * (delta / 2).tanh()
        return Coefficients(
            a=a if upstream.keys() - {"mean_logit", "max_logit", "reference_kl", "reference_cross_entropy"} else None,
            b=b,
            v=v,
            k=k,
            c=constant if upstream.keys() & {"mean_logit", "uniform_kl"} else None,
            label=label,
            shift=shift,
            p_scale=scale,
            q_scale=q_scale,
            one_hots=self._one_hots(upstream),
        )

    def _one_hots(self, upstream: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        pairs = []
        if "max_logit" in upstream:
            pairs.append((self.whole.index, upstream["max_logit"]))
        if "top_other_log_prob" in upstream:
            pairs.append((self.others.index, upstream["top_other_log_prob"]))
        return pairs
