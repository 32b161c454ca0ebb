from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lightning_unlearn.data.bins import next_fit, split_fullest

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=40).map(np.array)


def held(edges: np.ndarray, sizes: np.ndarray) -> list[list[int]]:
    """Sizes of the units in each bin."""
    return [sizes[first:stop].tolist() for first, stop in pairwise(edges)]


@given(SIZES, st.integers(9, 30))
def test_next_fit_keeps_every_unit_in_order_and_closes_a_bin_only_where_it_must(sizes, cap):
    bins = held(next_fit(sizes, cap), sizes)
    assert [size for units in bins for size in units] == sizes.tolist()
    assert all(units and sum(units) <= cap for units in bins)
    for units, following in pairwise(bins):
        assert sum(units) + following[0] > cap


@given(SIZES, st.integers(9, 30), st.integers(0, 50))
def test_splitting_makes_the_number_without_moving_a_unit(sizes, cap, more):
    edges = next_fit(sizes, cap)
    count = len(edges) - 1 + more
    split = split_fullest(edges, sizes, count)
    bins = held(split, sizes)
    assert len(bins) == count
    assert set(edges.tolist()) <= set(split.tolist())  # bins were cut, and none was joined to another
    assert [size for units in bins for size in units] == sizes.tolist()
    empty = [not units for units in bins]
    assert empty == sorted(empty)  # those that hold nothing come last,
    assert not any(empty) or max(map(len, bins)) == 1  # and only where nothing is left to be split


def test_the_fullest_bin_is_halved_where_its_halves_are_most_alike():
    # [5 1 2] and [3 3 2] hold 8 each: the first is cut after 5 (5 | 3 rather than 6 | 2), the second after 3 (3 | 5)
    sizes = np.array([5, 1, 2, 7, 3, 3, 2])
    edges = next_fit(sizes, 8)
    assert held(edges, sizes) == [[5, 1, 2], [7], [3, 3, 2]]
    assert held(split_fullest(edges, sizes, 5), sizes) == [[5], [1, 2], [7], [3], [3, 2]]


def test_a_million_units_take_seconds_at_most():
    sizes = np.random.default_rng(0).integers(20, 400, 1_000_000)
    edges = next_fit(sizes, 4096)
    assert len(split_fullest(edges, sizes, len(edges) + 100)) == len(edges) + 101
