"""Token statistics from hidden states and an output head, the [N, V] logits never held.

`schedule.py` says which passes a call makes. A reference's logits are formed from its own hidden states: together with
the model's, in one product, where the two share a head.

Shapes: N tokens, D hidden size, D_ref the reference's hidden size, V vocabulary, r rank of an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from unlearn_kernels import arguments, engine, parallel
from unlearn_kernels.backends import row_kernels
from unlearn_kernels.head import Factor, FactorGradients, HeadGradients, HeadLogits, Transform, logit_dtype
from unlearn_kernels.passes import Pass, RowKernels
from unlearn_kernels.schedule import Schedule, Work, choose
from unlearn_kernels.statistics import (
    NEED_REFERENCE,
    NOT_DIFFERENTIABLE,
    REFERENCE_GRADIENT,
    TokenStatistics,
    check_statistics,
)
from unlearn_kernels.tiles import Buffers, Demand, Tiling, restore


def linear_token_statistics(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    statistics: Sequence[str] = ("log_prob", "entropy"),
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    temperature: float = 1.0,
    adapter_hidden: Tensor | None = None,
    adapter_weight: Tensor | None = None,
    reference_hidden: Tensor | None = None,
    reference_weight: Tensor | None = None,
    reference_bias: Tensor | None = None,
    ignore_index: int | None = -100,
    vocab_group: dist.ProcessGroup | None = None,
    workspace_bytes: int | None = None,
    backend: str = "auto",
    explain: Callable[[Schedule], None] | None = None,
) -> TokenStatistics:
    """Compute per-token vocabulary statistics of z = softcap(logit_scale (hidden weight^T + bias)) / temperature.

    Differentiable with respect to `hidden`, `weight` and `bias` under any upstream gradients. The reference's logits
    are formed from its own hidden states, weight and bias with the same soft cap, scale and temperature, and carry no
    gradient.

    A low-rank adapter of the head (LoRA, Hu et al. 2021) adds adapter_hidden adapter_weight^T to hidden weight^T: with
    A [r, D], B [V, r] and its scale s, pass `adapter_hidden=s * dropout(hidden) @ A.T` and `adapter_weight=B`. Both
    have gradients, none of which is of size V x D. The reference has no adapter.

    Args:
        hidden: hidden states that predict the labels, [N, D]; float32, bfloat16, float16 or float64.
        weight: output head, [V, D].
        labels: token ids, int64 [N].
        statistics: the fields of `TokenStatistics` to compute.
        bias: [V].
        softcap: z <- softcap * tanh(z / softcap).
        logit_scale: z <- logit_scale * z.
        temperature: z <- z / temperature.
        adapter_hidden: hidden states times the adapter's first matrix, [N, r]; needs `adapter_weight`.
        adapter_weight: the adapter's second matrix, [V, r], its rows sharded as `weight` is.
        reference_hidden: the frozen model's hidden states, [N, D_ref]; needed by `reference_*` and `reverse_kl`.
        reference_weight: its head, [V, D_ref]; default: `weight` (and `bias`) without gradient.
        reference_bias: its bias, [V].
        ignore_index: tokens with this label give 0 in every field and have no gradient; they are dropped first, which
            on a GPU synchronises once. None promises that there are none and synchronises never.
        vocab_group: process group over which the rows of `weight` (and of `bias` and the reference's) are sharded in
            rank order. `hidden` and the labels (global ids) are the same on every rank, and so is the result; the
            gradient of `hidden` is summed over the group.
        workspace_bytes: cap on temporary memory, kept tiles of logits included; default 272 MiB on a CPU and 512 MiB
            elsewhere. The gradients returned, and a converted block of 16-bit hidden states, come on top.
        backend: "triton", "torch", or "auto" for Triton on a GPU and PyTorch elsewhere.
        explain: called with the `Schedule` of this call, such as `print`.

    Returns:
        A record of [N] tensors; fields not asked for are None.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range, or a field lacks its reference.
    """
    has_reference = reference_hidden is not None
    names = check_statistics(statistics, has_reference)
    arguments.check_options(softcap=softcap, temperature=temperature, workspace_bytes=workspace_bytes, backend=backend)
    if not has_reference and not (reference_weight is None and reference_bias is None):
        raise ValueError("reference_hidden: expected hidden states beside reference_weight or reference_bias, got None")
    if reference_weight is weight and reference_bias is bias:
        reference_weight = reference_bias = None  # the same head, said twice
    elif has_reference and reference_weight is None and reference_bias is not None:
        reference_weight = weight.detach()
    adapter = (adapter_hidden, adapter_weight)
    inputs = _Inputs(hidden, weight, bias, *adapter, reference_hidden, reference_weight, reference_bias)
    _check_tensors(inputs, labels)
    if NEED_REFERENCE.isdisjoint(names):
        inputs = _Inputs(hidden, weight, bias, *adapter)
    index = arguments.labelled_rows(labels, ignore_index)
    kept_labels = (labels if index is None else labels[index]).long()
    offset, vocabulary = 0, len(weight)
    if vocab_group is not None:
        offset, vocabulary = parallel.shard(len(weight), vocab_group, weight.device)
    arguments.check_label_range(kept_labels, vocabulary)
    call = _Call(
        names,
        Transform(softcap, logit_scale, temperature),
        vocab_group,
        row_kernels(backend, logit_dtype(hidden, weight), hidden.device),
        offset,
        vocabulary,
    )
    recorded = torch.is_grad_enabled() and not NOT_DIFFERENTIABLE.issuperset(names)
    needs = tuple(recorded and x is not None and x.requires_grad for x in inputs[:DIFFERENTIABLE])
    schedule = _schedule(inputs, len(kept_labels), call, needs, workspace_bytes)
    if explain is not None:
        explain(schedule)
    with torch.autocast(hidden.device.type, enabled=False):
        if schedule.name == "unit gradients":
            values = _UnitGradients.apply(*inputs, kept_labels, index, call, schedule.tiling)
        elif schedule.name == "recompute":
            values = _Recompute.apply(*inputs, kept_labels, index, call, schedule.tiling)
        else:
            with torch.no_grad():
                run, _ = _pass(inputs, kept_labels, index, call, schedule.tiling)
                summary, _ = engine.summarise(run, names, kept_labels, vocabulary, vocab_group)
                values = engine.values(summary, names, index, len(hidden))
    return TokenStatistics(**dict(zip(names, values, strict=True)))


class _Inputs(NamedTuple):
    """The floating-point tensors of a call, those that may have a gradient first."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    adapter_hidden: Tensor | None = None
    adapter_weight: Tensor | None = None
    reference_hidden: Tensor | None = None
    reference_weight: Tensor | None = None  # None: the model's head and bias
    reference_bias: Tensor | None = None

    def heads(
        self, transform: Transform, index: Tensor | None, dtype: torch.dtype
    ) -> tuple[HeadLogits, HeadLogits | None]:
        """The sources of the model's and of the reference's logits."""
        head, adapter = Factor(self.hidden, self.weight, index, dtype), None
        if self.adapter_hidden is not None and self.adapter_weight is not None:
            adapter = Factor(self.adapter_hidden, self.adapter_weight, index, dtype)
        own = HeadLogits(head, adapter, self.bias, transform)
        if self.reference_hidden is None:
            return own, None
        shared = self.reference_weight is None
        weight, bias = (self.weight, self.bias) if shared else (self.reference_weight, self.reference_bias)
        return own, HeadLogits(Factor(self.reference_hidden, weight, index, dtype), None, bias, transform)


DIFFERENTIABLE = 5  # the first so many of `_Inputs`


def _check_tensors(inputs: _Inputs, labels: Tensor) -> None:
    hidden, weight = inputs.hidden, inputs.weight
    arguments.check_matrix("hidden", hidden, (None, None))
    device, tokens = hidden.device, len(hidden)
    arguments.check_matrix("weight", weight, (None, hidden.shape[1]), device)
    if not len(weight):
        raise ValueError("weight: expected at least one row, got 0")
    arguments.check_labels(labels, tokens, device)
    arguments.check_vector("bias", inputs.bias, len(weight), device)
    if inputs.adapter_hidden is not None or inputs.adapter_weight is not None:
        arguments.check_matrix("adapter_hidden", inputs.adapter_hidden, (tokens, None), device)
        arguments.check_matrix(
            "adapter_weight", inputs.adapter_weight, (len(weight), inputs.adapter_hidden.shape[1]), device
        )
    if inputs.reference_hidden is not None:
        size = hidden.shape[1] if inputs.reference_weight is None else None
        arguments.check_matrix("reference_hidden", inputs.reference_hidden, (tokens, size), device)
    if inputs.reference_weight is not None:
        shape = (len(weight), inputs.reference_hidden.shape[1])
        arguments.check_matrix("reference_weight", inputs.reference_weight, shape, device)
        arguments.check_vector("reference_bias", inputs.reference_bias, len(weight), device)


@dataclass(frozen=True)
class _Call:
    """Everything of a call that is not a tensor; `offset` is this rank's place in the whole vocabulary."""

    statistics: tuple[str, ...]
    transform: Transform
    group: dist.ProcessGroup | None
    kernels: RowKernels
    offset: int | Tensor
    vocabulary: int | Tensor


def _schedule(
    inputs: _Inputs, tokens: int, call: _Call, needs: tuple[bool, ...], workspace_bytes: int | None
) -> Schedule:
    """Choose the schedule of a call from what it takes."""
    dtype = logit_dtype(inputs.hidden, inputs.weight)
    own, reference = inputs.heads(call.transform, None, dtype)
    compares = not REFERENCE_GRADIENT.isdisjoint(call.statistics)
    fields = len(set(call.statistics) - NOT_DIFFERENTIABLE)
    tile_bytes = dtype.itemsize * call.kernels.tile_buffers(call.statistics, reference is not None, own.cap is not None)
    if own.gradient_dtype != dtype:
        tile_bytes += own.gradient_dtype.itemsize
    column_bytes = own.column_bytes() + (0 if inputs.reference_weight is None else reference.column_bytes())
    kept_bytes = dtype.itemsize * (1 + compares)
    sums = tokens * own.head.row_bytes() if needs[0] else 0
    units = tokens * inputs.hidden.shape[1] * dtype.itemsize * fields
    work = Work(
        tokens=tokens,
        vocabulary=len(inputs.weight),
        needs_hidden=needs[0],
        needs_weight=needs[1],
        needs_other=any(needs[2:]),
        fields=fields,
        has_reference=reference is not None,
        compares=compares,
        sharded=call.group is not None,
    )
    once, unit = (Demand(tile_bytes, kept_bytes, column_bytes, fixed) for fixed in (sums, units))
    return choose(work, once, unit, inputs.hidden.device, workspace_bytes)


def _pass(
    inputs: _Inputs, labels: Tensor, index: Tensor | None, call: _Call, tiling: Tiling
) -> tuple[Pass, HeadLogits]:
    """A pass and the source of its model's logits."""
    dtype = logit_dtype(inputs.hidden, inputs.weight)
    own, other = inputs.heads(call.transform, index, dtype)
    shared = other is not None and inputs.reference_weight is None
    run = Pass(
        own,
        other,
        labels - call.offset,
        tiling,
        dtype,
        call.kernels,
        call.offset,
        keep_reference=not REFERENCE_GRADIENT.isdisjoint(call.statistics),
        together=shared and own.head.operand_dtype == other.head.operand_dtype,
    )
    return run, own


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments_):
        *tensors, labels, index, call, tiling = arguments_
        inputs = _Inputs(*tensors)
        run, _ = _pass(inputs, labels, index, call, tiling)
        summary, kept = engine.summarise(run, call.statistics, labels, call.vocabulary, call.group)
        ctx.save_for_backward(*inputs, index, *engine.pack(summary, kept))
        ctx.call, ctx.tiling = call, tiling
        ctx.set_materialize_grads(False)
        return engine.mark(ctx, engine.values(summary, call.statistics, index, len(inputs.hidden)), call.statistics)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        saved, call = ctx.saved_tensors, ctx.call  # once only: activation checkpointing refuses a second look
        inputs, index = _Inputs(*saved[: len(_Inputs._fields)]), saved[len(_Inputs._fields)]
        summary, kept = engine.unpack(saved[len(_Inputs._fields) + 1 :], call.vocabulary)
        upstream = engine.upstream(call.statistics, grads, index)
        run, own = _pass(inputs, summary.labels, index, call, ctx.tiling)
        gradients = HeadGradients(own, ctx.tiling.rows, ctx.needs_input_grad[:DIFFERENTIABLE])
        with torch.autocast(inputs.hidden.device.type, enabled=False):
            engine.differentiate(run, summary, kept, upstream, gradients.add, call.transform.linear)
        return (*gradients.results(call.group), *[None] * 7)


class _UnitGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments_):
        *tensors, labels, index, call, tiling = arguments_
        inputs = _Inputs(*tensors)
        names = [name for name in call.statistics if name not in NOT_DIFFERENTIABLE]
        shape = (len(names), len(labels), inputs.hidden.shape[1])
        units = inputs.hidden.new_zeros(shape, dtype=logit_dtype(inputs.hidden, inputs.weight))
        buffers = Buffers(tiling.elements, units.dtype, units.device)
        values = []
        for rows in tiling.rows:
            part = labels[rows]
            chosen = torch.arange(rows.start, rows.stop, device=labels.device) if index is None else index[rows]
            run, own = _pass(inputs, part, chosen, call, Tiling([slice(0, len(part))], tiling.columns, tiling.kept))
            run.buffers = buffers
            summary, kept = engine.summarise(run, call.statistics, part, call.vocabulary, None)
            values.append(engine.values(summary, call.statistics, None, len(part)))
            for name, unit in zip(names, units, strict=True):
                gradients = FactorGradients(own.head, run.tiling.rows, unit[rows], needs_weight=False)
                one = {name: torch.ones_like(summary.margin)}
                engine.differentiate(run, summary, kept, one, gradients.add, call.transform.linear)
        ctx.save_for_backward(units, index)
        ctx.call, ctx.like = call, (len(inputs.hidden), inputs.hidden.dtype)
        ctx.set_materialize_grads(False)
        fields = tuple(restore(torch.cat(parts), index, len(inputs.hidden)) for parts in zip(*values, strict=True))
        return engine.mark(ctx, fields, call.statistics)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        (units, index), (tokens, dtype) = ctx.saved_tensors, ctx.like
        upstream = engine.upstream(ctx.call.statistics, grads, index)
        names = [name for name in ctx.call.statistics if name not in NOT_DIFFERENTIABLE]
        total = torch.zeros_like(units[0])
        for name, unit in zip(names, units, strict=True):
            if name in upstream:
                total.addcmul_(unit, upstream[name].to(unit.dtype).unsqueeze(1))
        return restore(total.to(dtype), index, tokens), *[None] * 11
