"""The two passes over tiles of logits: sums forward, gradients backward.

A pass does not know where logits come from: a `Source` forms them tile by tile, from hidden states and a head
(`head.py`) or from logits that somebody already has (`logits.py`). Nor what is done with them: `RowKernels` reduce a
tile and form its gradient, in PyTorch (`torch_rows.py`) or in Triton (`triton_rows.py`).

Shapes: N tokens, V vocabulary; a tile is [rows, columns].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from unlearn_kernels.fields import Coefficients
from unlearn_kernels.merge import Side, Wants, known, merge_all
from unlearn_kernels.tiles import Buffers, Tiling

KEPT = 16  # number of the first tile that is kept; those below are scratch
MERGED_TOGETHER = 32  # tiles whose sums are merged in one go


class Source(Protocol):
    """Forms logits for one slice of the vocabulary after another."""

    def select(self, columns: slice) -> None:
        """Make ready the slice of the vocabulary that the next calls of `form` are about."""

    def form(self, rows: slice, out: Tensor) -> None:
        """Write the logits of some tokens over the selected slice into `out`."""

    def form_both(self, reference: Any, rows: slice, out: Tensor) -> None:
        """Write the model's and the reference's logits, [2, rows, columns], where they share a head."""

    @property
    def cap(self) -> float | None:
        """Factor after the tanh of the soft cap, None where there is no cap."""

    @property
    def gradient_dtype(self) -> torch.dtype:
        """Dtype in which the gradient of a tile is wanted."""


class RowKernels(Protocol):
    """What a backend does with a tile of logits; see `torch_rows.py` for what the arguments mean."""

    def tile_buffers(self, statistics: tuple[str, ...], has_reference: bool, has_cap: bool) -> int:
        """Tile-sized buffers that both operations take at most, the tiles' own among them."""

    def summarise_tile(
        self,
        tile: Tensor,
        other: Tensor | None,
        labels: Tensor,
        start: int,
        wants: tuple[Wants, Wants],
        buffers: Buffers,
    ) -> tuple[Side, Side | None]:
        """Reduce a tile of the model's logits and of the reference's, which may be centred in place."""

    def differentiate_tile(
        self,
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
        """Form the gradient of a tile of logits."""


@dataclass
class Pass:
    """What both passes need to know.

    Attributes:
        own: the model's logits.
        reference: the frozen reference's logits, or None.
        labels: y counted from this shard's first column, [N].
        tiling: the tiles.
        dtype: dtype of the tiles.
        kernels: the backend's operations on a tile.
        offset: first column of this shard within the vocabulary.
        keep_reference: whether backward will need the reference's logits too.
        together: whether one product can form both models' logits.
        buffers: the tiles' memory; new where none is given.
    """

    own: Source
    reference: Source | None
    labels: Tensor
    tiling: Tiling
    dtype: torch.dtype
    kernels: RowKernels
    offset: int | Tensor = 0
    keep_reference: bool = False
    together: bool = False
    buffers: Buffers | None = None

    def tiles(self) -> Iterator[tuple[int, slice, slice]]:
        """Every (slice number, slice, block), sources made ready for the slice."""
        for number, columns in enumerate(self.tiling.columns):
            self.own.select(columns)
            if self.reference is not None:
                self.reference.select(columns)
            for rows in self.tiling.rows:
                yield number, columns, rows

    def memory(self) -> Buffers:
        """The tiles' memory."""
        return self.buffers or Buffers(self.tiling.elements, self.dtype, self.labels.device)

    def form(
        self, rows: slice, columns: slice, buffers: Buffers, own: int, reference: int
    ) -> tuple[Tensor, Tensor | None]:
        """The model's and the reference's logits of some tokens over the selected slice, in tiles of these numbers."""
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        if self.reference is None:
            tile, other = buffers.tile(own, *shape), None
        elif self.together and reference == own + 1:
            both = buffers.pair(own, *shape)
            self.own.form_both(self.reference, rows, both)
            return both[0], both[1]
        else:
            tile, other = buffers.tile(own, *shape), buffers.tile(reference, *shape)
            self.reference.form(rows, other)
        self.own.form(rows, tile)
        return tile, other


def forward_pass(run: Pass, wants: tuple[Wants, Wants]) -> tuple[Side, Side | None, list[Tensor]]:
    """Reduce every tile and merge the results, each logit formed once.

    Args:
        run: sources, labels and tiles.
        wants: sums to take of the model's and of the reference's logits.

    Returns:
        What is known of the model's and of the reference's logits, and the kept tiles: what `summarise_tile` left of
        the logits, and their maxima, in the order of `Pass.tiles`, all of the model's before all of the reference's.
    """
    buffers = run.memory()
    blocks: dict[int, list[tuple[Side, Side | None]]] = {}
    kept: list[Tensor] = []
    kept_reference: list[Tensor] = []
    for tile_number, (number, columns, rows) in enumerate(run.tiles()):
        keep = number < run.tiling.kept
        slot = KEPT + 2 * tile_number if keep else 0
        tile, other = run.form(rows, columns, buffers, slot, slot + 1 if run.keep_reference else 1)
        own, reference = run.kernels.summarise_tile(tile, other, run.labels[rows], columns.start, wants, buffers)
        if keep:
            kept += [tile, own.others.maximum]
            if reference is not None and other is not None and run.keep_reference:
                kept_reference += [other, reference.others.maximum]
        found = blocks.setdefault(rows.start, [])
        found.append((own, reference))
        if len(found) == MERGED_TOGETHER:
            found[:] = [_merge(found)]
    own, reference = _join([_merge(found) for found in blocks.values()], run.offset)
    return own, reference, kept + kept_reference


def _merge(found: list[tuple[Side, Side | None]]) -> tuple[Side, Side | None]:
    references = [reference for _, reference in found if reference is not None]
    return merge_all([own for own, _ in found]), merge_all(references) if references else None


def _join(blocks: list[tuple[Side, Side | None]], offset: int | Tensor) -> tuple[Side, Side | None]:
    """Put the blocks of tokens end to end, and count columns over all ranks."""
    own = _end_to_end([own for own, _ in blocks])
    if own.others.index is not None:
        own.others.index = own.others.index + offset
    references = [reference for _, reference in blocks if reference is not None]
    return own, _end_to_end(references) if references else None


def _end_to_end(sides: list[Side]) -> Side:
    if len(sides) == 1:
        return sides[0]
    columns = zip(*(side.tensors() for side in sides), strict=True)
    return Side.of([None if column[0] is None else torch.cat([known(x) for x in column]) for column in columns])


def backward_pass(
    run: Pass,
    coefficients: Coefficients,
    kept: Sequence[Tensor],
    emit: Callable[[slice, slice, Tensor], None],
) -> None:
    """Form the gradient with respect to the logits tile by tile, and hand each tile over.

    Args:
        run: sources, labels and tiles, as in forward.
        coefficients: the combined upstream gradients; columns of its one-hots are global.
        kept: the kept tiles and their centres.
        emit: called with (columns, rows, gradient); the gradient's memory is used again afterwards.
    """
    if coefficients.k is None and coefficients.v is None:
        run = replace(run, reference=None)  # no gradient that was asked for needs it
    buffers = run.memory()
    split = 2 * run.tiling.kept * len(run.tiling.rows)
    own_kept, reference_kept = iter(kept[:split]), iter(kept[split:])
    coefficients.one_hots = [(index - run.offset, value) for index, value in coefficients.one_hots]
    for number, columns, rows in run.tiles():
        centre, other_centre = None, None
        if number < run.tiling.kept:
            tile, centre = next(own_kept), next(own_kept)
            other, other_centre = (
                (None, None) if run.reference is None else (next(reference_kept), next(reference_kept))
            )
        else:
            tile, other = run.form(rows, columns, buffers, 0, 1)
        gradient = run.kernels.differentiate_tile(
            tile,
            centre,
            other,
            other_centre,
            run.labels[rows],
            columns.start,
            coefficients.rows(rows),
            run.own.cap,
            buffers,
            run.own.gradient_dtype,
        )
        emit(columns, rows, gradient)
