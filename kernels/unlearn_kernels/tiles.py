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

DEFAULT_WORKSPACE_CPU = 128 * 2**20
DEFAULT_WORKSPACE_DEVICE = 512 * 2**20
CACHE_CPU = 24 * 2**20  # tiles that stay in the last-level cache make the elementwise passes nearly free
FAST_COLUMNS = 512  # narrower slices make slow matrix products


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


def cut(total: int, step: int) -> list[slice]:
    """Cut range(total) into slices of at most `step`; one empty slice where the total is 0."""
    return [slice(start, min(start + step, total)) for start in range(0, total, step)] or [slice(0, 0)]


def plan(
    tokens: int,
    vocabulary: int,
    *,
    buffers: int,
    logits: int,
    column_bytes: int,
    dtype: torch.dtype,
    device: torch.device,
    workspace_bytes: int | None,
    keep: bool,
) -> Tiling:
    """Choose tiles so that the buffers, the converted head and the kept tiles stay within the workspace.

    At least one row by one column is taken, whatever the cap.

    Args:
        tokens: N.
        vocabulary: V.
        buffers: tile-sized buffers that a pass needs.
        logits: tiles to keep for one slice: 1, or 2 with a reference.
        column_bytes: bytes that one column of the slice takes beside the tiles (converted head and gradient).
        dtype: dtype of the tiles.
        device: where they live; on a CPU tiles are also kept within the cache.
        workspace_bytes: the cap; None for 128 MiB on a CPU and 512 MiB elsewhere.
        keep: whether backward will follow.
    """
    on_cpu = device.type == "cpu"
    cap = workspace_bytes or (DEFAULT_WORKSPACE_CPU if on_cpu else DEFAULT_WORKSPACE_DEVICE)
    target = min(cap, CACHE_CPU) if on_cpu else cap
    element = buffers * dtype.itemsize
    rows, narrow = max(1, tokens), min(vocabulary, FAST_COLUMNS)
    if rows * element * narrow > target:
        rows = max(1, (target - narrow * column_bytes) // (element * narrow), target // (2 * element * narrow))
    columns = min(vocabulary, max(1, target // (rows * element + column_bytes)))
    if 64 < columns < vocabulary:
        columns -= columns % 64
    row_blocks, column_slices = cut(tokens, rows), cut(vocabulary, columns)
    kept = 0
    if keep:
        left = cap - columns * (rows * element + column_bytes)
        kept = max(0, left // (columns * max(1, tokens) * logits * dtype.itemsize))
        if left >= vocabulary * tokens * logits * dtype.itemsize:
            kept = len(column_slices)
    return Tiling(row_blocks, column_slices, min(kept, len(column_slices)))


def restore(x: Tensor, index: Tensor | None, tokens: int) -> Tensor:
    """Put the rows of `x` back where they were among all tokens, zeros elsewhere."""
    return x if index is None else x.new_zeros((tokens, *x.shape[1:])).index_copy_(0, index, x)


class Buffers:
    """Scratch tiles, each allocated when first asked for and handed out as contiguous views.

    Args:
        elements: size of each.
        dtype: dtype of the tiles.
        device: where they live.
    """

    def __init__(self, elements: int, dtype: torch.dtype, device: torch.device):
        self.elements, self.dtype, self.device = elements, dtype, device
        self.storage: dict[int, Tensor] = {}

    def tile(self, number: int, rows: int, columns: int) -> Tensor:
        """Scratch tile `number` as [rows, columns], its contents arbitrary."""
        if number not in self.storage:
            self.storage[number] = torch.empty(self.elements, dtype=self.dtype, device=self.device)
        return self.storage[number][: rows * columns].view(rows, columns)


def _width(slices: list[slice]) -> int:
    return max(s.stop - s.start for s in slices)
