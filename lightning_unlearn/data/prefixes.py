"""Rows that begin alike, such as the answers to one question: their common beginning is packed, and computed, once.

Each group becomes one row that holds the common beginning, the parent, and one for the rest of every row, which
continues the parent: it attends to the parent's tokens as if they stood before its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from lightning_unlearn.data.packing import PackedBatch, RoleSpan, TokenRow, int64_tensor

LEAST = 4  # tokens that are worth a row of their own


def shared_length(group: Sequence[TokenRow]) -> int:
    """Count the tokens that the rows of a group begin with alike, at least one of each row left out; 0 if few.

    >>> rows = [TokenRow(np.array(ids), np.array([4]), np.array([9])) for ids in ([1, 2, 3, 4, 5], [1, 2, 3, 4, 6, 7])]
    >>> shared_length(rows), shared_length(rows[:1])
    (4, 0)
    """
    if len(group) < 2:
        return 0
    shortest = min(len(row.input_ids) for row in group) - 1
    stacked = np.stack([row.input_ids[:shortest] for row in group])
    differs = (stacked != stacked[0]).any(0)
    shared = int(differs.argmax()) if differs.any() else shortest
    return shared if shared >= LEAST else 0


def packed_tokens(group: Sequence[TokenRow]) -> int:
    """Count the tokens that a group takes in a batch."""
    return sum(len(row.input_ids) for row in group) - max(len(group) - 1, 0) * shared_length(group)


class _Piece(NamedTuple):
    """A packed row: its tokens, the position of the first, the packed row that it continues or -1."""

    tokens: np.ndarray
    position: int
    parent: int


def pack_groups(groups: Sequence[Sequence[TokenRow]]) -> PackedBatch:
    """Pack groups of rows, the common beginning of each once, as one role "rows".

    Targets are those of the rows, one row after the other. A target that the common beginning predicts points there.

    Args:
        groups: rows of each group, at least one in all.

    Raises:
        ValueError: if there is no row at all.
    """
    if not any(groups):
        raise ValueError("groups must hold at least one row, got none")
    pieces: list[_Piece] = []
    rows: list[tuple[TokenRow, int]] = []  # and where its own tokens are
    for group in groups:
        shared, parent = shared_length(group), -1
        if shared:
            parent = len(pieces)
            pieces.append(_Piece(group[0].input_ids[:shared], 0, -1))
        for row in group:
            rows.append((row, len(pieces)))
            pieces.append(_Piece(row.input_ids[shared:], shared, parent))
    lengths = tuple(len(piece.tokens) for piece in pieces)
    starts = np.array([0, *accumulate(lengths)])
    targets = np.concatenate([row.targets for row, _ in rows])
    return PackedBatch(
        input_ids=int64_tensor(np.concatenate([piece.tokens for piece in pieces])),
        position_ids=int64_tensor(np.concatenate([np.arange(len(x.tokens)) + x.position for x in pieces])),
        target_index=int64_tensor(np.concatenate([_index(row, pieces[at], starts, at) for row, at in rows])),
        targets=int64_tensor(targets),
        target_row=int64_tensor(np.repeat([at for _, at in rows], [len(row.targets) for row, _ in rows])),
        lengths=lengths,
        spans={"rows": RoleSpan(slice(0, len(pieces)), slice(0, len(targets)), slice(0, int(starts[-1])))},
        parents=tuple(piece.parent for piece in pieces),
    )


def _index(row: TokenRow, piece: _Piece, starts: np.ndarray, at: int) -> np.ndarray:
    """Where in the batch the row's targets are predicted: in its own tokens, or in its parent's."""
    own = int(starts[at]) - piece.position
    return row.target_positions + np.where(row.target_positions < piece.position, starts[piece.parent], own)
