"""What both public operations share: fields from a forward pass, and a backward pass from the fields' gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from unlearn_kernels import parallel
from unlearn_kernels.fields import Summary, wanted_sums
from unlearn_kernels.merge import Partial, Side, known
from unlearn_kernels.passes import Pass, backward_pass, forward_pass
from unlearn_kernels.statistics import NOT_DIFFERENTIABLE
from unlearn_kernels.tiles import restore

_WIDTH = len(Partial.__dataclass_fields__) + 1  # and the label's logit


def summarise(
    run: Pass, statistics: tuple[str, ...], labels: Tensor, vocabulary: int | Tensor, group: dist.ProcessGroup | None
) -> tuple[Summary, list[Tensor]]:
    """Run the forward pass, merge the ranks' sums, and return what is known of each token and the kept tiles.

    Args:
        run: sources and tiles.
        statistics: fields that will be asked for.
        labels: global token ids, [N].
        vocabulary: V over all ranks.
        group: the tensor-parallel group, or None.
    """
    own, reference, kept = forward_pass(run, wanted_sums(statistics))
    if group is not None:
        own, reference = parallel.merge_ranks(own, reference, group)
    return Summary(own, reference, labels, vocabulary), kept


def values(summary: Summary, statistics: tuple[str, ...], index: Tensor | None, tokens: int) -> tuple[Tensor, ...]:
    """The fields over all tokens, 0 for those that were dropped."""
    return tuple(restore(getattr(summary, name)(), index, tokens) for name in statistics)


def pack(summary: Summary, kept: list[Tensor]) -> list[Tensor | None]:
    """All tensors of a summary and the kept tiles, as a flat list for `save_for_backward`."""
    reference = [None] * _WIDTH if summary.reference is None else summary.reference.tensors()
    return [summary.labels, *summary.own.tensors(), *reference, *kept]


def unpack(saved: Sequence[Tensor | None], vocabulary: int | Tensor) -> tuple[Summary, list[Tensor]]:
    """Undo `pack`."""
    labels, *rest = saved
    own, reference, kept = rest[:_WIDTH], rest[_WIDTH : 2 * _WIDTH], rest[2 * _WIDTH :]
    other = None if reference[0] is None else Side.of(reference)
    summary = Summary(Side.of(own), other, known(labels), vocabulary)
    return summary, [known(tile) for tile in kept]


def differentiate(
    run: Pass,
    summary: Summary,
    kept: list[Tensor],
    grads: dict[str, Tensor],
    emit: Callable[[slice, slice, Tensor], None],
    factor: float = 1.0,
) -> None:
    """Run the backward pass for all upstream gradients at once.

    Args:
        run: sources and tiles, as in forward.
        summary: what forward found.
        kept: the tiles that forward kept.
        grads: gradient with respect to each field that has one, as `upstream` returns them.
        emit: called with (columns, rows, gradient of the logits); see `backward_pass`.
        factor: multiplies the gradient of the logits.
    """
    scaled = {name: g.to(run.dtype) * factor for name, g in grads.items()}
    backward_pass(run, summary.coefficients(scaled), kept, emit)


def mark(ctx: FunctionCtx, fields: tuple[Tensor, ...], statistics: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Tell autograd which fields have no gradient, and return all."""
    pairs = zip(statistics, fields, strict=True)
    ctx.mark_non_differentiable(*(field for name, field in pairs if name in NOT_DIFFERENTIABLE))
    return fields


def upstream(statistics: tuple[str, ...], grads: tuple[Tensor | None, ...], index: Tensor | None) -> dict[str, Tensor]:
    """The upstream gradients that exist, by field, for the tokens that were not dropped."""
    pairs = [(name, g) for name, g in zip(statistics, grads, strict=True) if name not in NOT_DIFFERENTIABLE]
    return {name: g if index is None else g[index] for name, g in pairs if g is not None}
