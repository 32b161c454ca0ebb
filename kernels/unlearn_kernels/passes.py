"""The two passes over tiles of logits: sums forward, gradients backward.

A pass does not know where logits come from: a `Source` forms them tile by tile, from hidden states and a head (`head.py`)
or from logits that somebody already has (`logits.py`).

Shapes: N tokens, V vocabulary; a tile is [rows, columns].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unlearn_kernels.fields import Coefficients, Summary
from unlearn_kernels.merge import Column, Partial, Wants, accumulate, centre_, merge
from unlearn_kernels.tiles import Buffers, Tiling


class Source(Protocol):
    """Forms logits for one slice of the vocabulary after another."""

    def select(self, columns: slice) -> None:
        """Make ready the slice of the vocabulary that the next calls of `form` are about."""

    def form(self, rows: slice, out: Tensor) -> None:
        """Write the logits of some tokens over the selected slice into `out`."""

    def slope(self, centred: Tensor, maximum: Tensor) -> Tensor | None:
        """Derivative of the soft cap at the logits centred + maximum, in a new tensor; None where there is no cap."""


@dataclass
class Pass:
    """What both passes need to know.

    Attributes:
        own: the model's logits.
        reference: the frozen reference's logits, or None.
        labels: y counted from this shard's first column, [N].
        tiling: the tiles.
        dtype: dtype of the tiles.
        offset: first column of this shard within the vocabulary.
    """

    own: Source
    reference: Source | None
    labels: Tensor
    tiling: Tiling
    dtype: torch.dtype
    offset: int | Tensor = 0

    def tiles(self) -> Iterator[tuple[int, slice, int, slice]]:
        """Every (slice number, slice, block number, block), sources made ready for the slice."""
        for i, columns in enumerate(self.tiling.columns):
            self.own.select(columns)
            if self.reference is not None:
                self.reference.select(columns)
            for j, rows in enumerate(self.tiling.rows):
                yield i, columns, j, rows

    def buffers(self, count: int) -> Buffers:
        return Buffers(count, self.tiling.elements, self.dtype, self.labels.device)


@dataclass
class Sums:
    """What the forward pass finds: sums over v != y, the label's logits, and the tiles that were kept.

    Attributes:
        own: the model's sums, fields [N].
        reference: the reference's sums, or None.
        label_logit: z_y, -inf for tokens whose label is not in this shard.
        label_reference: r_y likewise, or None.
        kept: centred tiles with their centres, flat, in the order of `Pass.tiles`.
    """

    own: Partial
    reference: Partial | None
    label_logit: Tensor
    label_reference: Tensor | None
    kept: list[Tensor]


def forward_pass(run: Pass, wants: tuple[Wants, Wants]) -> Sums:
    """Reduce every tile and merge the results, each logit formed once."""
    buffers = run.buffers(2 if run.reference is None else 4)
    blocks: list[list[Partial]] = [[] for _ in run.tiling.rows]
    other_blocks: list[list[Partial]] = [[] for _ in run.tiling.rows]
    label_logit = torch.full(run.labels.shape, float("-inf"), dtype=run.dtype, device=run.labels.device)
    label_reference = None if run.reference is None else label_logit.clone()
    kept: list[Tensor] = []

    def reduce(source: Source, number: int, label_values: Tensor, want: Wants) -> tuple[Partial, Tensor]:
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        keep = i < run.tiling.kept
        tile = torch.empty(shape, dtype=run.dtype, device=run.labels.device) if keep else buffers.tile(number, *shape)
        source.form(rows, tile)
        label_values[rows] = label.read(tile, label_values[rows])
        partial = centre_(tile, label, columns.start + run.offset, want)
        if keep:
            kept.extend((tile, partial.maximum))
        return partial, tile

    for i, columns, j, rows in run.tiles():
        label = Column(run.labels[rows], columns.start, columns.stop - columns.start)
        own, tile = reduce(run.own, 0, label_logit, wants[0])
        work = buffers.tile(1, *tile.shape)
        if run.reference is None:
            accumulate(own, tile, label, wants[0], work, None)
        else:
            reference, other = reduce(run.reference, 2, label_reference, wants[1])
            _accumulate_both(own, tile, reference, other, label, wants, work, buffers.tile(3, *tile.shape))
            other_blocks[j] = _merged(other_blocks[j], reference)
        blocks[j] = _merged(blocks[j], own)
    reference = _stack(other_blocks) if run.reference is not None else None
    return Sums(_stack(blocks), reference, label_logit, label_reference, kept)


def _accumulate_both(
    own: Partial,
    tile: Tensor,
    reference: Partial,
    other: Tensor,
    label: Column,
    wants: tuple[Wants, Wants],
    work: Tensor,
    difference: Tensor,
) -> None:
    """`accumulate` for the model's and the reference's tile, with the gaps sum e (z - r)."""
    shift = own.maximum - reference.maximum
    for partial, centred, want in ((own, tile, wants[0]), (reference, other, wants[1])):
        gap = torch.sub(tile, other, out=difference) if want.gap else None
        accumulate(partial, centred, label, want, work, gap)
        if partial.gap is not None:
            partial.gap += shift * partial.total


def _merged(so_far: list[Partial], partial: Partial) -> list[Partial]:
    return [merge(so_far[0], partial)] if so_far else [partial]


def _stack(blocks: list[list[Partial]]) -> Partial:
    parts = [block[0].tensors() for block in blocks]
    return Partial(*(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)))


def backward_pass(
    run: Pass,
    summary: Summary,
    coefficients: Coefficients,
    kept: list[Tensor],
    emit: Callable[[slice, slice, Tensor], None],
) -> None:
    """Form the gradient with respect to the logits tile by tile, and hand each tile over.

    Args:
        run: sources, labels and tiles, as in forward.
        summary: what forward found.
        coefficients: the combined upstream gradients.
        kept: the kept tiles and their centres.
        emit: called with (columns, rows, gradient); the gradient's memory is used again afterwards.
    """
    buffers = run.buffers(2 if run.reference is None else 4)
    saved = iter(kept)

    def centred(source: Source, number: int, maximum: Tensor) -> Tensor:
        tile = buffers.tile(number, rows.stop - rows.start, columns.stop - columns.start)
        if i < run.tiling.kept:
            torch.add(next(saved), (next(saved) - maximum).unsqueeze(1), out=tile)
        else:
            source.form(rows, tile)
            tile.sub_(maximum.unsqueeze(1))
        return tile

    for i, columns, _, rows in run.tiles():
        width = columns.stop - columns.start
        part = coefficients.rows(rows)
        maximum = summary.others.maximum[rows]
        tile = centred(run.own, 0, maximum)
        label = Column(run.labels[rows], columns.start, width)
        label.fill_(tile, summary.label_logit[rows] - maximum)
        slope = run.own.slope(tile, maximum)
        work = buffers.tile(1, *tile.shape)
        if run.reference is None:
            _own_gradient(tile, part, work)
        else:
            other = centred(run.reference, 2, summary.other_reference.maximum[rows])
            _gradient_with_reference(tile, other, part, work, buffers.tile(3, *tile.shape))
        if part.c is not None:
            tile.add_(part.c.unsqueeze(1))
        label.fill_(tile, part.label)
        for index, value in part.one_hots:
            Column(index - run.offset, columns.start, width).add_(tile, value)
        emit(columns, rows, tile if slope is None else tile.mul_(slope))


def _own_gradient(tile: Tensor, part: Coefficients, work: Tensor) -> None:
    """Replace centred logits d by e^d (a + b d)."""
    if part.a is None:
        tile.zero_()
    elif part.b is None:
        tile.exp_().mul_(part.a.unsqueeze(1))
    else:
        torch.mul(tile, part.b.unsqueeze(1), out=work).add_(part.a.unsqueeze(1))
        tile.exp_().mul_(work)


def _gradient_with_reference(tile: Tensor, other: Tensor, part: Coefficients, work: Tensor, delta: Tensor) -> None:
    """Replace centred logits d by e^d (a + b d + v delta) + k (p - q), with p - q = (p + q) tanh(delta / 2).

    The identity is the expm1 of the log ratio without its overflow: exact where p and q are close, bounded where not.
    """
    if part.v is None and part.k is None:
        return _own_gradient(tile, part, work)
    torch.sub(tile, other, out=delta).add_(part.shift.unsqueeze(1))
    has_product = part.a is not None
    if has_product:
        work.copy_(part.a.unsqueeze(1))
        for factor, operand in ((part.b, tile), (part.v, delta)):
            if factor is not None:
                work.addcmul_(factor.unsqueeze(1), operand)
    tile.exp_()
    if has_product:
        work.mul_(tile)
    if part.k is None:
        tile.copy_(work)
        return
    tile.mul_(part.p_scale.unsqueeze(1)).add_(other.exp_().mul_(part.q_scale.unsqueeze(1)))
    tile.mul_(delta.mul_(0.5).tanh_().mul_(part.k.unsqueeze(1)))
    if has_product:
        tile.add_(work)
