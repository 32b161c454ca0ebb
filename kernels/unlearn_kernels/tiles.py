"""How [tokens, vocabulary] is cut into tiles that fit a workspace.

Columns (slices of the vocabulary) are the outer loop, so that each slice of the head is read and converted once a pass
and each slice of its gradient is written once; rows (blocks of tokens) are cut only where a slice would become too
narrow for a matrix product to be fast. Tiles are kept from forward for backward while the workspace lasts, which saves
recomputing them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DEFAULT_WORKSPACE_CPU = 272 * 2**20  # all logits of 512 tokens over 128k entries, and scratch
DEFAULT_WORKSPACE_DEVICE = 512 * 2**20
CACHE_CPU = 16 * 2**20  # tiles that stay in the last-level cache make the elementwise passes nearly free
CACHE_COLUMNS_CPU = 2048  # a wider slice of the head makes its product up to a fifth slower
FAST_COLUMNS = 512  # narrower slices make slow matrix products
FAST_ROWS = 128  # and so do shorter blocks of tokens
DEVICE_ROWS = 128  # a block of tokens is a multiple of what one program of a matrix product covers


@dataclass(frozen=True)
class Tiling:
    """Blocks of tokens and slices of the vocabulary, and how many slices are kept for backward.

    Attributes:
        rows: blocks of tokens.
        columns: slices of the vocabulary.
        kept: tiles of the first `kept` slices are kept from forward for backward.
    """

    rows: list[slice]
    columns: list[slice]
    kept: int

    @property
    def elements(self) -> int:
        """Size of the largest tile."""
        return _width(self.rows) * _width(self.columns)


@dataclass(frozen=True)
class Demand:
    """What a pass takes, beside its inputs and what it returns.

    Attributes:
        tile_bytes: of one tile's logit and the scratch that goes with it.
        kept_bytes: of one kept logit, and its reference's where that is kept too.
        column_bytes: of one column of a slice, beside the tiles: the converted head and its gradient.
        fixed_bytes: whatever the tiles.
    """

    tile_bytes: int
    kept_bytes: int
    column_bytes: int = 0
    fixed_bytes: int = 0


def cut(total: int, step: int) -> list[slice]:
    """Cut range(total) into slices of at most `step`; one empty slice where the total is 0."""
    return [slice(start, min(start + step, total)) for start in range(0, total, step)] or [slice(0, 0)]


def budget(demand: Demand, device: torch.device, workspace_bytes: int | None) -> int:
    """Bytes for tiles, kept ones included.

    Args:
        demand: what the pass takes.
        device: where the tensors are.
        workspace_bytes: the cap; None for 272 MiB on a CPU and 512 MiB elsewhere.
    """
    cap = workspace_bytes or (DEFAULT_WORKSPACE_CPU if device.type == "cpu" else DEFAULT_WORKSPACE_DEVICE)
    return max(cap - demand.fixed_bytes, cap // 4, 1)


def plan(tokens: int, vocabulary: int, demand: Demand, device: torch.device, cap: int, keep: bool) -> Tiling:
    """Choose tiles for a pass over all tokens, and how many are kept.

    At least one row by one column is taken, whatever the cap.

    Args:
        tokens: N.
        vocabulary: V.
        demand: what the pass takes.
        device: where the tensors are; on a CPU the tiles in work are also kept within the cache.
        cap: what `budget` returned.
        keep: whether backward will follow.
    """
    target = min(cap, CACHE_CPU) if device.type == "cpu" else cap
    element, column = demand.tile_bytes, demand.column_bytes
    rows, narrow = max(1, tokens), min(vocabulary, FAST_COLUMNS)
    if rows * element * narrow > target:
        rows = max(1, (target - narrow * column) // (element * narrow), target // (2 * element * narrow))
        # Even blocks, since a tile that is kept is as large for a short one.
        rows = _ceil_div(max(1, tokens), _ceil_div(max(1, tokens), rows))
    columns = _columns(vocabulary, target // (rows * element + column), device)
    blocks, slices, kept = cut(tokens, rows), cut(vocabulary, columns), 0
    if keep:
        left = cap - columns * (rows * element + column)
        kept = max(0, left // (columns * rows * len(blocks) * demand.kept_bytes))
    return Tiling(blocks, slices, min(kept, len(slices)))


def plan_blocks(tokens: int, vocabulary: int, demand: Demand, device: torch.device, cap: int) -> Tiling | None:
    """Choose blocks of tokens of which all logits are kept at once, or None where the cap leaves too few tokens.

    Args:
        tokens: N.
        vocabulary: V.
        demand: what the pass takes; the tiles in work are those of one slice.
        device: where the tensors are.
        cap: what `budget` returned.
    """
    on_cpu = device.type == "cpu"
    scratch = min(cap // 4, CACHE_CPU) if on_cpu else cap // 4
    most = (cap - scratch) // (vocabulary * demand.kept_bytes)
    if most < max(1, min(tokens, FAST_ROWS)):
        return None
    blocks = max(1, _ceil_div(tokens, most))
    rows = max(1, _ceil_div(tokens, blocks))
    if not on_cpu and most >= DEVICE_ROWS:
        rows = min(_ceil_div(rows, DEVICE_ROWS) * DEVICE_ROWS, most // DEVICE_ROWS * DEVICE_ROWS)
    columns = _columns(vocabulary, scratch // (rows * demand.tile_bytes + demand.column_bytes), device)
    slices = cut(vocabulary, columns)
    return Tiling(cut(tokens, rows), slices, len(slices))


def _columns(vocabulary: int, most: int, device: torch.device) -> int:
    columns = min(vocabulary, max(1, most), CACHE_COLUMNS_CPU if device.type == "cpu" else vocabulary)
    return columns - columns % 64 if 64 < columns < vocabulary else columns


def restore(x: Tensor, index: Tensor | None, tokens: int) -> Tensor:
    """Put the rows of `x` back where they were among all tokens, zeros elsewhere."""
    return x if index is None else x.new_zeros((tokens, *x.shape[1:])).index_copy_(0, index, x)


class Buffers:
    """Tiles by number, each allocated when first asked for and handed out as contiguous views.

    Args:
        elements: size of the largest tile.
        dtype: dtype of the tiles.
        device: where they live.
    """

    def __init__(self, elements: int, dtype: torch.dtype, device: torch.device):
        self.elements, self.dtype, self.device = elements, dtype, device
        self.storage: dict[int, Tensor] = {}

    def tile(self, number: int, rows: int, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        """Tile `number` as [rows, columns], its contents arbitrary; a tile of another dtype has a number of its own."""
        if number not in self.storage:
            self.storage[number] = torch.empty(self.elements, dtype=dtype or self.dtype, device=self.device)
        return self.storage[number][: rows * columns].view(rows, columns)

    def pair(self, number: int, rows: int, columns: int) -> Tensor:
        """Tiles `number` and `number + 1` side by side as [2, rows, columns], which one product can write."""
        if number not in self.storage or len(self.storage[number]) < 2 * self.elements:
            self.storage[number] = torch.empty(2 * self.elements, dtype=self.dtype, device=self.device)
        both = self.storage[number][: 2 * rows * columns].view(2, rows, columns)
        self.storage[number + 1] = self.storage[number][rows * columns :]
        return both


def _ceil_div(total: int, size: int) -> int:
    return -(-total // size)


def _width(slices: list[slice]) -> int:
    return max(s.stop - s.start for s in slices)
