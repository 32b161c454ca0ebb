"""The two operations on a tile of logits with the kernels of `rows.py`; what they do is said in `torch_rows.py`.

Logits of any dtype are read where they lie and never changed, so no scratch tile is needed and no centre is taken off.

Shapes: M rows of logits of which N tokens count, C columns of the tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn_kernels import rows as kernels
from unlearn_kernels.fields import Coefficients
from unlearn_kernels.merge import Partial, Side, Wants
from unlearn_kernels.tiles import Buffers

OWN_SUMS = ("logit_sum", "first", "second", "gap")
REFERENCE_SUMS = ("reference_first", "reference_gap", "excess")


def tile_buffers(statistics: tuple[str, ...], has_reference: bool, has_cap: bool) -> int:
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
    flags = sums_of(wants)
    logits, reference = _unit_stride(logits), None if reference is None else _unit_stride(reference)
    sums, index = kernels.row_sums(logits, reference, labels, rows, start, **flags)
    label, maximum, total, *optional = sums[:7].unbind()
    taken = {name: x for name, x in zip(OWN_SUMS, optional, strict=True) if flags[name]}
    side = Side(Partial(maximum, total, **taken, index=index if flags["index"] else None), label)
    if reference is None:
        return side, None
    label, maximum, total, *optional = sums[7:].unbind()
    pairs = zip(REFERENCE_SUMS, optional, strict=True)
    taken = {name.removeprefix("reference_"): x for name, x in pairs if flags[name]}
    return side, Side(Partial(maximum, total, **taken), label)


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
    dtype: torch.dtype,
) -> Tensor:
    """Form the gradient of a tile of logits: in its place, or, of a kept tile or in another dtype, in a tile apart."""
    same = dtype == tile.dtype
    out = buffers.tile(0, *tile.shape) if same else buffers.tile(2, *tile.shape, dtype=dtype)
    in_place = same and centre is None
    differentiate_rows(out, None if in_place else tile, other, labels, start, part, cap, None)
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
    if part.k is None and part.v is None:
        reference = None
    logits, reference = (None if x is None else _unit_stride(x) for x in (logits, reference))
    kernels.row_gradient(out, logits, reference, labels, rows, start, cap, **vectors(part))


def vectors(part: Coefficients) -> dict[str, Tensor | None]:
    """The numbers a token that the gradient kernel takes, by its names; None compiles a term out."""
    hots = [*part.one_hots, (None, None), (None, None)][:2]
    both = part.k is not None
    return {
        "maximum": part.centre,
        "label_gradient": part.label,
        "a": part.a,
        "b": part.b,
        "c": part.c,
        "v": part.v,
        "k": part.k,
        "gap": part.gap,
        "p_scale": part.p_scale if both else None,
        "q_scale": part.q_scale if both else None,
        "reference_maximum": part.reference_centre,
        "hot": hots[0][0],
        "hot_value": hots[0][1],
        "second_hot": hots[1][0],
        "second_hot_value": hots[1][1],
    }


def sums_of(wants: tuple[Wants, Wants]) -> dict[str, bool]:
    """The sums that the forward kernel takes, by its names."""
    own, reference = wants
    return {
        "logit_sum": own.logit_sum,
        "first": own.first,
        "second": own.second,
        "gap": own.gap,
        "index": own.index,
        "reference_first": reference.first,
        "reference_gap": reference.gap,
        "excess": reference.excess,
    }


def _unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()
