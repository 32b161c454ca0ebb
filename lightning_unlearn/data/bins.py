"""Bins of units, none above a cap: pure functions of the units' sizes.

Shapes: U units, K bins; edges [K + 1] ascend from 0 to U, and bin k holds the units edges[k], ..., edges[k + 1] - 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np


def next_fit(sizes: np.ndarray, cap: int) -> np.ndarray:
    """Cut units into bins in their order: a bin is closed where the next unit would not fit.

    >>> next_fit(np.array([3, 4, 1, 5, 2]), 8)
    array([0, 3, 5])

    Args:
        sizes: int64 [U], none above `cap`.
        cap: most that a bin may hold.

    Returns:
        Edges, int64 [K + 1].
    """
    until = np.cumsum(sizes)
    edges, held = [0], 0
    while edges[-1] < len(sizes):
        edges.append(int(np.searchsorted(until, held + cap, side="right")))
        held = int(until[edges[-1] - 1])
    return np.array(edges)


def by_size(sizes: Sequence[int], cap: int) -> Iterator[list[int]]:
    """Put units of like size together, largest first; one above the cap is alone.

    A model that must pad pads little, and memory runs out early or never.

    >>> list(by_size([3, 9, 4, 2], 7))
    [[1], [2, 0], [3]]

    Args:
        sizes: of the units.
        cap: most that a bin may hold.
    """
    held: list[int] = []
    used = 0
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if held and used + sizes[i] > cap:
            yield held
            held, used = [], 0
        held.append(i)
        used += sizes[i]
    if held:
        yield held


def split_fullest(edges: np.ndarray, sizes: np.ndarray, count: int) -> np.ndarray:
    """Halve the fullest bin of more than one unit, again and again, until there are `count`.

    Where every bin holds a single unit, empty bins at the end make up the number.

    >>> split_fullest(np.array([0, 3, 5]), np.array([3, 4, 1, 5, 2]), 3)
    array([0, 1, 3, 5])
    >>> split_fullest(np.array([0, 2]), np.array([3, 4]), 4)
    array([0, 1, 2, 2, 2])

    Args:
        edges: int64 [K + 1].
        sizes: int64 [U].
        count: number of bins wanted, at least K.

    Returns:
        Edges, int64 [count + 1].
    """
    until = np.concatenate([[0], np.cumsum(sizes)])
    made = edges.tolist()
    fullest = [(_rank(until, *pair), *pair) for pair in pairwise(made)]
    heapify(fullest)
    while len(made) <= count and fullest and fullest[0][0] < 0:
        _, first, stop = heappop(fullest)
        inner = until[first + 1 : stop]
        middle = first + 1 + int(np.abs(2 * inner - until[first] - until[stop]).argmin())
        made.append(middle)
        for pair in ((first, middle), (middle, stop)):
            heappush(fullest, (_rank(until, *pair), *pair))
    return np.array(sorted(made) + [len(sizes)] * (count + 1 - len(made)))


def _rank(until: np.ndarray, first: int, stop: int) -> int:
    """Sort key of a bin: below 0, the fuller the lower, where it can be split; else 1."""
    return -1 - int(until[stop] - until[first]) if stop - first > 1 else 1
