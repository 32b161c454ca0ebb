"""The two operations on a tile of logits with the kernels of `rows.py`; what they do is said in `torch_rows.py`.

Logits of any dtype are read where they lie and never changed, so no scratch tile is needed and no centre is taken off.

Shapes: M rows of logits of which N tokens count, C columns of the tile.
"""

from __future__ import annotations

from torch import Tensor

from unlearn_kernels import rows as kernels
from unlearn_kernels.fields import Coefficients
from unlearn_kernels.merge import Partial, Side, Wants
from unlearn_kernels.tiles import Buffers


def tile_buffers(statistics: tuple[str, ...], has_reference: bool) -> int:
    """Tile-sized buffers: the tiles alone."""
    return 2 if has_reference else 1


def summarise_tile(
    tile: Tensor, other: Tensor | None, labels: Tensor, start: int, wants: tuple[Wants, Wants], buffers: Buffers
) -> tuple[Side, Side | None]:
    """Reduce a tile of logits and the reference's; both are left as they are."""
    return summarise_rows(tile, other, labels, start, wants, None)


def summarise_rows(
    logits: Tensor,
    reference: Tensor | None,
    labels: Tensor,
    start: int,
    wants: tuple[Wants, Wants],
    rows: Tensor | None,
) -> tuple[Side, Side | None]:
    """Reduce some rows of logits and of the reference's.

    Args:
        logits: [M, C].
        reference: [M, C] or None.
        labels: y counted as `start` is, [N].
        start: first column.
        wants: sums to take of the model's and of the reference's logits.
        rows: the tokens' rows, [N]; None for all.
    """
    own, other = wants
    flags = (own.logit_sum, own.first, own.second, own.gap, own.index, other.first, other.gap, other.excess)
    logits, reference = _unit_stride(logits), None if reference is None else _unit_stride(reference)
    sums, index = kernels.row_sums(logits, reference, labels, rows, start, *flags)
    label, maximum, total, *optional = sums[:7].unbind()
    logit_sum, first, second, gap = (x if flag else None for x, flag in zip(optional, flags, strict=False))
    side = Side(Partial(maximum, total, logit_sum, first, second, gap, None, index if own.index else None), label)
    if reference is None:
        return side, None
    label, maximum, total, *optional = sums[7:].unbind()
    first, gap, excess = (x if flag else None for x, flag in zip(optional, flags[5:], strict=True))
    return side, Side(Partial(maximum, total, None, first, None, gap, excess), label)


def differentiate_tile(
    tile: Tensor,
    centre: Tensor | None,
    other: Tensor | None,
    other_centre: Tensor | None,
    labels: Tensor,
    start: int,
    part: Coefficients,
    cap: float | None,
    buffers: Buffers,
) -> Tensor:
    """Form the gradient of a tile of logits, kept or lying in buffer 0, in buffer 0."""
    out = buffers.tile(0, *tile.shape)
    differentiate_rows(out, tile if centre is not None else None, other, labels, start, part, cap, None)
    return out


def differentiate_rows(
    out: Tensor,
    logits: Tensor | None,
    reference: Tensor | None,
    labels: Tensor,
    start: int,
    part: Coefficients,
    cap: float | None,
    rows: Tensor | None,
) -> None:
    """Write the gradient of some rows of logits.

    Args:
        out: where it goes, [M, C].
        logits: [M, C]; None where `out` holds them.
        reference: [M, C] or None.
        labels: y counted as `start` is, [N].
        start: first column.
        part: the numbers of the gradient formula.
        cap: factor after the tanh of the soft cap, or None.
        rows: the tokens' rows, [N]; None for all.
    """
    hots: list[Tensor | None] = [x for pair in part.one_hots for x in pair]
    hots += [None] * (4 - len(hots))
    ratio: tuple[Tensor | None, ...] = (None, None)
    if part.k is not None:
        ratio = (part.p_scale, part.q_scale)
    if part.k is None and part.v is None:
        reference = None
    logits, reference = (None if x is None else _unit_stride(x) for x in (logits, reference))
    terms = (part.a, part.b, part.c, part.v, part.k, part.shift, *ratio, part.reference_centre)
    kernels.row_gradient(out, logits, reference, labels, rows, start, cap, part.centre, part.label, *terms, *hots)


def _unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()
