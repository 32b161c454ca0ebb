"""Token statistics from logits that somebody already has.

The logits are read tile by tile and never copied whole; backward reads them again and writes their gradient, in their
own dtype, once.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unlearn_kernels import arguments, engine
from unlearn_kernels.head import logit_dtype
from unlearn_kernels.passes import Pass
from unlearn_kernels.statistics import (
    NEED_REFERENCE,
    NOT_DIFFERENTIABLE,
    REFERENCE_GRADIENT,
    TokenStatistics,
    check_statistics,
)
from unlearn_kernels.tiles import plan


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
        workspace_bytes: cap on temporary memory; default 128 MiB on a CPU and 512 MiB elsewhere.
        backend: "torch", or "auto" for the best that is available.

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
    with torch.autocast(logits.device.type, enabled=False):
        if logits.requires_grad and torch.is_grad_enabled() and not NOT_DIFFERENTIABLE.issuperset(names):
            values = _TokenStatistics.apply(logits, reference, kept_labels, index, names, workspace_bytes)
        else:
            with torch.no_grad():
                run = _prepare(logits, reference, kept_labels, index, names, workspace_bytes)
                summary, _ = engine.summarise(run, names, kept_labels, logits.shape[1], None)
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

    def slope(self, centred: Tensor, maximum: Tensor) -> None:
        """Given logits are final: there is no cap."""
        return None


def _prepare(
    logits: Tensor,
    reference: Tensor | None,
    labels: Tensor,
    index: Tensor | None,
    statistics: tuple[str, ...],
    workspace_bytes: int | None,
) -> Pass:
    dtype = logit_dtype(logits)
    tiling = plan(
        len(labels),
        logits.shape[1],
        buffers=engine.tile_buffers(statistics, reference is not None) + 1,
        logits=1,
        column_bytes=0,
        dtype=dtype,
        device=logits.device,
        workspace_bytes=workspace_bytes,
        keep=False,
    )
    other = None if reference is None else GivenLogits(reference, index)
    return Pass(GivenLogits(logits, index), other, labels, tiling, dtype)


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, reference, labels, index, statistics, workspace_bytes):
        run = _prepare(logits, reference, labels, index, statistics, workspace_bytes)
        summary, _ = engine.summarise(run, statistics, labels, logits.shape[1], None)
        ctx.save_for_backward(logits, reference, index, *engine.pack(summary, []))
        ctx.statistics, ctx.workspace_bytes = statistics, workspace_bytes
        ctx.set_materialize_grads(False)
        return engine.mark(ctx, engine.values(summary, statistics, index, len(logits)), statistics)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        logits, reference, index, *saved = ctx.saved_tensors
        summary, _ = engine.unpack(saved, logits.shape[1])
        upstream = engine.upstream(ctx.statistics, grads, index)
        if REFERENCE_GRADIENT.isdisjoint(upstream):
            reference = None
        run = _prepare(logits, reference, summary.labels, index, ctx.statistics, ctx.workspace_bytes)
        gradient = torch.empty_like(logits) if index is None else torch.zeros_like(logits)

        def emit(columns: slice, rows: slice, tile: Tensor) -> None:
            gradient[rows if index is None else index[rows], columns] = tile.to(logits.dtype)

        with torch.autocast(logits.device.type, enabled=False):
            engine.differentiate(run, summary, [], upstream, emit)
        return gradient, None, None, None, None, None
