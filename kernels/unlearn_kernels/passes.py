"""The two passes over tiles of logits: sums forward, gradients backward.

A pass does not know where logits come from: a `Source` forms them tile by tile, from hidden states and a head
(`head.py`) or from logits that somebody already has (`logits.py`).

Shapes: N tokens, V vocabulary; a tile is [rows, columns].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unlearn_kernels.fields import Coefficients, Summary
from unlearn_kernels.merge import Column, Partial, Side, Wants, accumulate, accumulate_gap, centre_, known, merge
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
        keep_reference: whether backward will need the reference's logits too.
    """

    own: Source
    reference: Source | None
    labels: Tensor
    tiling: Tiling
    dtype: torch.dtype
    offset: int | Tensor = 0
    keep_reference: bool = False

    def tiles(self) -> Iterator[tuple[int, slice, int, slice]]:
        """Every (slice number, slice, block number, block), sources made ready for the slice."""
        for i, columns in enumerate(self.tiling.columns):
            self.own.select(columns)
            if self.reference is not None:
                self.reference.select(columns)
            for j, rows in enumerate(self.tiling.rows):
                yield i, columns, j, rows

    def buffers(self, count: int) -> Buffers:
        """New scratch tiles."""
        return Buffers(count, self.tiling.elements, self.dtype, self.labels.device)

    def new_tile(self, rows: int, columns: int) -> Tensor:
        """A tile to keep."""
        return torch.empty(rows, columns, dtype=self.dtype, device=self.labels.device)


def forward_pass(run: Pass, wants: tuple[Wants, Wants]) -> tuple[Side, Side | None, list[Tensor]]:
    """Reduce every tile and merge the results, each logit formed once.

    Args:
        run: sources, labels and tiles.
        wants: sums to take of the model's and of the reference's logits.

    Returns:
        What is known of the model's and of the reference's logits, and the kept tiles: centred logits and their
        centres, in the order of `Pass.tiles`, all of the model's before all of the reference's.
    """
    buffers = run.buffers(2 if run.reference is None else 5)
    own, reference = _Collector(run, run.own, wants[0]), None
    if run.reference is not None:
        reference = _Collector(run, run.reference, wants[1])
    kept: list[Tensor] = []
    kept_reference: list[Tensor] = []
    for number, columns, block, rows in run.tiles():
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        label = Column(run.labels[rows], columns.start, shape[1])
        keep = number < run.tiling.kept
        tile = run.new_tile(*shape) if keep else buffers.tile(0, *shape)
        partial = own.centre(tile, label, rows, columns)
        kept += [tile, partial.maximum] if keep else []
        work = buffers.tile(1, *shape)
        if reference is None:
            accumulate(partial, tile, label, wants[0], work)
        else:
            keep = keep and run.keep_reference
            other = run.new_tile(*shape) if keep else buffers.tile(2, *shape)
            second = reference.centre(other, label, rows, columns)
            kept_reference += [other, second.maximum] if keep else []
            difference = torch.sub(tile, other, out=buffers.tile(3, *shape))
            shift = partial.maximum - second.maximum
            for part, centred, want in ((partial, tile, wants[0]), (second, other, wants[1])):
                weights = accumulate(part, centred, label, want, work)
                accumulate_gap(part, weights, difference, shift, want, buffers.tile(4, *shape))
            reference.merge(block, second)
        own.merge(block, partial)
    return own.result(), None if reference is None else reference.result(), kept + kept_reference


class _Collector:
    """Merges the Partials of one model's tiles, block of tokens by block."""

    def __init__(self, run: Pass, source: Source, want: Wants):
        self.run, self.source, self.want = run, source, want
        self.label = torch.full(run.labels.shape, float("-inf"), dtype=run.dtype, device=run.labels.device)
        self.blocks: list[Partial | None] = [None] * len(run.tiling.rows)

    def centre(self, tile: Tensor, label: Column, rows: slice, columns: slice) -> Partial:
        """Form a tile, note the label's logits and centre it."""
        self.source.form(rows, tile)
        self.label[rows] = label.read(tile, self.label[rows])
        return centre_(tile, label, columns.start + self.run.offset, self.want)

    def merge(self, block: int, partial: Partial) -> None:
        """Add the sums of one tile to its block's."""
        before = self.blocks[block]
        self.blocks[block] = partial if before is None else merge(before, partial)

    def result(self) -> Side:
        """The sums over all columns, of all tokens."""
        parts = [block.tensors() for block in self.blocks if block is not None]
        columns = zip(*parts, strict=True)
        return Side(
            Partial.of([None if x[0] is None else torch.cat([known(y) for y in x]) for x in columns]), self.label
        )


def backward_pass(
    run: Pass,
    summary: Summary,
    coefficients: Coefficients,
    kept: Sequence[Tensor],
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
    split = 2 * run.tiling.kept * len(run.tiling.rows)
    own_kept, reference_kept = iter(kept[:split]), iter(kept[split:])

    def centred(source: Source, number: int, maximum: Tensor, saved: Iterator[Tensor]) -> Tensor:
        out = buffers.tile(number, len(maximum), width)
        if keep:
            return torch.add(next(saved), (next(saved) - maximum).unsqueeze(1), out=out)
        source.form(rows, out)
        return out.sub_(maximum.unsqueeze(1))

    for number, columns, _, rows in run.tiles():
        keep, width, part = number < run.tiling.kept, columns.stop - columns.start, coefficients.rows(rows)
        maximum = summary.own.others.maximum[rows]
        tile, work = centred(run.own, 0, maximum, own_kept), buffers.tile(1, len(maximum), width)
        label = Column(run.labels[rows], columns.start, width)
        label.fill_(tile, summary.own.label[rows] - maximum)
        slope = run.own.slope(tile, maximum)
        if run.reference is None or summary.reference is None:
            _own_gradient(tile, part, work)
        else:
            other = centred(run.reference, 2, summary.reference.others.maximum[rows], reference_kept)
            _gradient_with_reference(tile, other, part, work, buffers.tile(3, len(maximum), width))
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
    torch.sub(tile, other, out=delta).add_(known(part.shift).unsqueeze(1))
    if part.a is not None:
        work.copy_(part.a.unsqueeze(1))
        for factor, operand in ((part.b, tile), (part.v, delta)):
            if factor is not None:
                work.addcmul_(factor.unsqueeze(1), operand)
    tile.exp_()
    if part.a is not None:
        work.mul_(tile)
    if part.k is None:
        tile.copy_(work)
        return
    tile.mul_(part.p_scale.unsqueeze(1)).add_(other.exp_().mul_(known(part.q_scale).unsqueeze(1)))
    tile.mul_(delta.mul_(0.5).tanh_().mul_(part.k.unsqueeze(1)))
    if part.a is not None:
        tile.add_(work)
