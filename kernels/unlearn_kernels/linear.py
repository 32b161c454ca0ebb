"""Token statistics from hidden states and an output head, the [N, V] logits never held.

The schedule follows from who needs a gradient (G is one matrix product of the head, 2 N D V operations):

    no gradient        G forward
    frozen head        G forward, then G to form the logits again and G for d_hidden
    trainable head     the same and G for d_weight, each slice of it written once in its final dtype

A reference costs another G wherever logits are formed. Tiles of logits are kept from forward while the workspace lasts,
and what is kept is not formed again.

Shapes: N tokens, D hidden size, D_ref the reference's hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from unlearn_kernels import arguments, engine, parallel
from unlearn_kernels.backends import row_kernels
from unlearn_kernels.head import HeadGradients, HeadLogits, Transform, logit_dtype
from unlearn_kernels.passes import Pass, RowKernels
from unlearn_kernels.statistics import (
    NEED_REFERENCE,
    NOT_DIFFERENTIABLE,
    REFERENCE_GRADIENT,
    TokenStatistics,
    check_statistics,
)
from unlearn_kernels.tiles import plan


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
    reference_hidden: Tensor | None = None,
    reference_weight: Tensor | None = None,
    reference_bias: Tensor | None = None,
    ignore_index: int | None = -100,
    vocab_group: dist.ProcessGroup | None = None,
    workspace_bytes: int | None = None,
    backend: str = "auto",
) -> TokenStatistics:
    """Compute per-token vocabulary statistics of z = softcap(logit_scale (hidden weight^T + bias)) / temperature.

    Differentiable with respect to `hidden`, `weight` and `bias` under any upstream gradients. The reference's logits
    are formed from its own hidden states, weight and bias with the same soft cap, scale and temperature, and carry no
    gradient.

    Args:
        hidden: hidden states that predict the labels, [N, D]; float32, bfloat16, float16 or float64.
        weight: output head, [V, D].
        labels: token ids, int64 [N].
        statistics: the fields of `TokenStatistics` to compute.
        bias: [V].
        softcap: z <- softcap * tanh(z / softcap).
        logit_scale: z <- logit_scale * z.
        temperature: z <- z / temperature.
        reference_hidden: the frozen model's hidden states, [N, D_ref]; needed by `reference_*` and `reverse_kl`.
        reference_weight: its head, [V, D_ref]; default: `weight` (and `bias`) without gradient.
        reference_bias: its bias, [V].
        ignore_index: tokens with this label give 0 in every field and have no gradient; they are dropped first, which
            on a GPU synchronises once. None promises that there are none and synchronises never.
        vocab_group: process group over which the rows of `weight` (and of `bias` and the reference's) are sharded in
            rank order. `hidden` and the labels (global ids) are the same on every rank, and so is the result; the
            gradient of `hidden` is summed over the group.
        workspace_bytes: cap on temporary memory, kept tiles of logits included; default 128 MiB on a CPU and 512 MiB
            elsewhere. Gradients, and a converted block of 16-bit hidden states, come on top.
        backend: "triton", "torch", or "auto" for Triton on a GPU and PyTorch elsewhere.

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
    if has_reference and reference_weight is None:
        reference_weight = weight.detach()
        reference_bias = bias.detach() if reference_bias is None and bias is not None else reference_bias
    inputs = _Inputs(hidden, weight, bias, reference_hidden, reference_weight, reference_bias)
    _check_tensors(inputs, labels)
    if NEED_REFERENCE.isdisjoint(names):
        inputs = _Inputs(hidden, weight, bias)
    index = arguments.labelled_rows(labels, ignore_index)
    kept_labels = (labels if index is None else labels[index]).long()
    kernels = row_kernels(backend, logit_dtype(hidden, weight), hidden.device)
    call = _Call(names, Transform(softcap, logit_scale, temperature), vocab_group, workspace_bytes, kernels)
    trainable = any(x is not None and x.requires_grad for x in (hidden, weight, bias))
    with torch.autocast(hidden.device.type, enabled=False):
        if trainable and torch.is_grad_enabled() and not NOT_DIFFERENTIABLE.issuperset(names):
            values = _LinearTokenStatistics.apply(*inputs, kept_labels, index, call)
        else:
            with torch.no_grad():
                run, vocabulary = _prepare(inputs, kept_labels, index, call, keep=False)
                summary, _ = engine.summarise(run, names, kept_labels, vocabulary, vocab_group)
                values = engine.values(summary, names, index, len(hidden))
    return TokenStatistics(**dict(zip(names, values, strict=True)))


class _Inputs(NamedTuple):
    """The floating-point tensors of a call."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    reference_hidden: Tensor | None = None
    reference_weight: Tensor | None = None
    reference_bias: Tensor | None = None

    def heads(
        self, transform: Transform, index: Tensor | None, dtype: torch.dtype
    ) -> tuple[HeadLogits, HeadLogits | None]:
        """The sources of the model's and of the reference's logits."""
        own = HeadLogits(self.hidden, self.weight, self.bias, transform, index, dtype)
        if self.reference_hidden is None or self.reference_weight is None:
            return own, None
        reference = (self.reference_hidden, self.reference_weight, self.reference_bias)
        return own, HeadLogits(*reference, transform, index, dtype)


def _check_tensors(inputs: _Inputs, labels: Tensor) -> None:
    hidden, weight = inputs.hidden, inputs.weight
    arguments.check_matrix("hidden", hidden, (None, None))
    device = hidden.device
    arguments.check_matrix("weight", weight, (None, hidden.shape[1]), device)
    if not len(weight):
        raise ValueError("weight: expected at least one row, got 0")
    arguments.check_labels(labels, len(hidden), device)
    arguments.check_vector("bias", inputs.bias, len(weight), device)
    if inputs.reference_hidden is not None and inputs.reference_weight is not None:
        arguments.check_matrix("reference_hidden", inputs.reference_hidden, (len(hidden), None), device)
        shape = (len(weight), inputs.reference_hidden.shape[1])
        arguments.check_matrix("reference_weight", inputs.reference_weight, shape, device)
        arguments.check_vector("reference_bias", inputs.reference_bias, len(weight), device)


@dataclass(frozen=True)
class _Call:
    """Everything of a call that is not a tensor."""

    statistics: tuple[str, ...]
    transform: Transform
    group: dist.ProcessGroup | None
    workspace_bytes: int | None
    kernels: RowKernels


def _prepare(
    inputs: _Inputs, labels: Tensor, index: Tensor | None, call: _Call, keep: bool
) -> tuple[Pass, int | Tensor]:
    """Sources, tiles and this rank's place in the vocabulary; also the size of the whole vocabulary."""
    hidden, weight = inputs.hidden, inputs.weight
    dtype = logit_dtype(hidden, weight)
    own, reference = heads = inputs.heads(call.transform, index, dtype)
    sources = [head for head in heads if head is not None]
    keep_reference = not REFERENCE_GRADIENT.isdisjoint(call.statistics)
    tiling = plan(
        len(labels),
        len(weight),
        buffers=call.kernels.tile_buffers(call.statistics, reference is not None) + own.extra_buffers(),
        logits=1 + keep_reference,
        column_bytes=sum(source.column_bytes() for source in sources),
        dtype=dtype,
        device=hidden.device,
        workspace_bytes=call.workspace_bytes,
        keep=keep,
    )
    offset, vocabulary = 0, len(weight)
    if call.group is not None:
        offset, vocabulary = parallel.shard(len(weight), call.group, weight.device)
    arguments.check_label_range(labels, vocabulary)
    return Pass(own, reference, labels - offset, tiling, dtype, call.kernels, offset, keep_reference), vocabulary


class _LinearTokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments_):
        *tensors, labels, index, call = arguments_
        inputs = _Inputs(*tensors)
        run, vocabulary = _prepare(inputs, labels, index, call, keep=True)
        summary, kept = engine.summarise(run, call.statistics, labels, vocabulary, call.group)
        ctx.save_for_backward(*inputs, index, *engine.pack(summary, kept))
        ctx.call, ctx.place = call, (run.tiling, run.dtype, run.offset, vocabulary)
        ctx.set_materialize_grads(False)
        return engine.mark(ctx, engine.values(summary, call.statistics, index, len(inputs.hidden)), call.statistics)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        saved = ctx.saved_tensors  # once only: activation checkpointing refuses a second look
        inputs, index = _Inputs(*saved[:6]), saved[6]
        tiling, dtype, offset, vocabulary = ctx.place
        summary, kept = engine.unpack(saved[7:], vocabulary)
        upstream = engine.upstream(ctx.call.statistics, grads, index)
        own, reference = inputs.heads(ctx.call.transform, index, dtype)
        if REFERENCE_GRADIENT.isdisjoint(upstream):
            reference = None
        run = Pass(own, reference, summary.labels - offset, tiling, dtype, ctx.call.kernels, offset)
        gradients = HeadGradients(own, tiling.rows, ctx.needs_input_grad[:3])
        with torch.autocast(inputs.hidden.device.type, enabled=False):
            engine.differentiate(run, summary, kept, upstream, gradients.add, ctx.call.transform.linear)
        return (*gradients.results(index, ctx.call.group), *[None] * 6)
