"""Token statistics from logits that somebody already has.

The logits are read tile by tile, by Triton where they lie, and never copied whole; backward reads them again and writes
their gradient, in their own dtype, once.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unlearn_kernels import arguments, engine, torch_rows
from unlearn_kernels.backends import row_kernels
from unlearn_kernels.fields import Summary, wanted_sums
from unlearn_kernels.head import logit_dtype
from unlearn_kernels.passes import Pass, RowKernels
from unlearn_kernels.statistics import (
    NEED_REFERENCE,
    NOT_DIFFERENTIABLE,
    TokenStatistics,
    check_statistics,
)
from unlearn_kernels.tiles import Demand, budget, plan


def token_statistics(
    logits: Tensor,
    labels: Tensor,
    statistics: Sequence[str] = ("log_prob", "entropy"),
    *,
    reference_logits: Tensor | None = None,
    ignore_index: int | None = -100,
    workspace_bytes: int | None = None,
    backend: str = "auto",
) -> TokenStatistics:
    """Compute per-token vocabulary statistics of final logits (no soft cap, scale or temperature is applied).

    Differentiable with respect to `logits` under any upstream gradients.

    Args:
        logits: [N, V]; float32, bfloat16, float16 or float64.
        labels: token ids, int64 [N].
        statistics: the fields of `TokenStatistics` to compute.
        reference_logits: the frozen model's logits, [N, V]; needed by the `reference_*` fields and `reverse_kl`.
        ignore_index: tokens with this label give 0 in every field and have no gradient; None promises that there are
            none (see `linear_token_statistics`).
        workspace_bytes: cap on temporary memory; default 272 MiB on a CPU and 512 MiB elsewhere.
        backend: "triton", "torch", or "auto" for Triton on a GPU and PyTorch elsewhere.

    Returns:
        A record of [N] tensors; fields not asked for are None.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or range, or a field lacks its reference.
    """
    names = check_statistics(statistics, reference_logits is not None)
    arguments.check_options(softcap=None, temperature=1.0, workspace_bytes=workspace_bytes, backend=backend)
    arguments.check_matrix("logits", logits, (None, None))
    arguments.check_labels(labels, logits.shape[0], logits.device)
    if not logits.shape[1]:
        raise ValueError("logits: expected at least one column, got 0")
    if reference_logits is not None:
        arguments.check_matrix("reference_logits", reference_logits, (len(logits), logits.shape[1]), logits.device)
    index = arguments.labelled_rows(labels, ignore_index)
    kept_labels = (labels if index is None else labels[index]).long()
    arguments.check_label_range(kept_labels, logits.shape[1])
    reference = None if NEED_REFERENCE.isdisjoint(names) else reference_logits
    call = _Call(names, workspace_bytes, row_kernels(backend, logit_dtype(logits), logits.device))
    with torch.autocast(logits.device.type, enabled=False):
        if logits.requires_grad and torch.is_grad_enabled() and not NOT_DIFFERENTIABLE.issuperset(names):
            values = _TokenStatistics.apply(logits, reference, kept_labels, index, call)
        else:
            with torch.no_grad():
                summary = _summarise(logits, reference, kept_labels, index, call)
                values = engine.values(summary, names, index, len(logits))
    return TokenStatistics(**dict(zip(names, values, strict=True)))


class GivenLogits:
    """Source of tiles of logits that exist.

    Args:
        logits: [M, V].
        index: rows that count, [N]; None for all.
    """

    def __init__(self, logits: Tensor, index: Tensor | None):
        self.logits, self.index = logits, index

    def select(self, columns: slice) -> None:
        """Say which slice of the vocabulary the next tiles are of."""
        self.columns = columns

    def form(self, rows: slice, out: Tensor) -> None:
        """Copy the logits of some tokens."""
        out.copy_(self.logits[rows if self.index is None else self.index[rows], self.columns])

    def form_both(self, reference: GivenLogits, rows: slice, out: Tensor) -> None:
        """Copy the model's and the reference's logits."""
        self.form(rows, out[0])
        reference.form(rows, out[1])

    cap = None  # given logits are final

    @property
    def gradient_dtype(self) -> torch.dtype:
        """Float32: it is converted where it is written."""
        return logit_dtype(self.logits)


class _Call(NamedTuple):
    """Everything of a call that is not a tensor."""

    statistics: tuple[str, ...]
    workspace_bytes: int | None
    kernels: RowKernels


def _summarise(logits: Tensor, reference: Tensor | None, labels: Tensor, index: Tensor | None, call: _Call) -> Summary:
    """Read all logits once: tile by tile, or where they lie."""
    if call.kernels is torch_rows:
        run = _prepare(logits, reference, labels, index, call)
        return engine.summarise(run, call.statistics, labels, logits.shape[1], None)[0]
    from unlearn_kernels import triton_rows

    sides = triton_rows.summarise_rows(logits, reference, labels, 0, wanted_sums(call.statistics), index)
    return Summary(*sides, labels, logits.shape[1])


def _differentiate(
    logits: Tensor,
    reference: Tensor | None,
    summary: Summary,
    index: Tensor | None,
    upstream: dict[str, Tensor],
    call: _Call,
) -> Tensor:
    """Read all logits once more and write their gradient once, zeros for the tokens that were dropped."""
    if call.kernels is torch_rows:
        gradient = torch.empty_like(logits) if index is None else torch.zeros_like(logits)

        def emit(columns: slice, rows: slice, tile: Tensor) -> None:
            gradient[rows if index is None else index[rows], columns] = tile.to(logits.dtype)

        engine.differentiate(_prepare(logits, reference, summary.labels, index, call), summary, [], upstream, emit)
        return gradient
    from unlearn_kernels import triton_rows

    gradient = logits.new_empty(logits.shape) if index is None else logits.new_zeros(logits.shape)
    coefficients = summary.coefficients({name: g.float() for name, g in upstream.items()})
    triton_rows.differentiate_rows(gradient, logits, reference, summary.labels, 0, coefficients, None, index)
    return gradient


def _prepare(logits: Tensor, reference: Tensor | None, labels: Tensor, index: Tensor | None, call: _Call) -> Pass:
    dtype = logit_dtype(logits)
    buffers = call.kernels.tile_buffers(call.statistics, reference is not None, False) + 1
    demand = Demand(buffers * dtype.itemsize, dtype.itemsize)
    cap = budget(demand, logits.device, call.workspace_bytes)
    tiling = plan(len(labels), logits.shape[1], demand, logits.device, cap, keep=False)
    other = None if reference is None else GivenLogits(reference, index)
    return Pass(GivenLogits(logits, index), other, labels, tiling, dtype, call.kernels)


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, reference, labels, index, call):
        summary = _summarise(logits, reference, labels, index, call)
        ctx.save_for_backward(logits, reference, index, *engine.pack(summary, []))
        ctx.call = call
        ctx.set_materialize_grads(False)
        return engine.mark(ctx, engine.values(summary, call.statistics, index, len(logits)), call.statistics)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        logits, reference, index, *saved = ctx.saved_tensors
        summary, _ = engine.unpack(saved, logits.shape[1])
        upstream = engine.upstream(ctx.call.statistics, grads, index)
        with torch.autocast(logits.device.type, enabled=False):
            gradient = _differentiate(logits, reference, summary, index, upstream, ctx.call)
        return gradient, None, None, None, None
