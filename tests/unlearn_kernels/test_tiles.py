from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_kernels.tiles import Buffers, Demand, budget, cut, plan, plan_blocks, restore

CPU, DEVICE = torch.device("cpu"), torch.device("meta")
sizes = {
    "tokens": st.integers(0, 5000),
    "vocabulary": st.integers(1, 300_000),
    "tile_bytes": st.integers(8, 28),
    "column_bytes": st.sampled_from([0, 8192, 65536]),
    "fixed_bytes": st.sampled_from([0, 10_000_000]),
    "workspace": st.integers(1, 2**30),
    "device": st.sampled_from([CPU, DEVICE]),
}


def covers(slices, total):
    assert slices[0].start == 0
    assert slices[-1].stop == total
    assert all(a.stop == b.start for a, b in pairwise(slices))
    return max(s.stop - s.start for s in slices)


@settings(deadline=None)
@given(**sizes, keep=st.booleans())
def test_tiles_cover_everything_within_the_cap(
    tokens, vocabulary, tile_bytes, column_bytes, fixed_bytes, workspace, device, keep
):
    demand = Demand(tile_bytes, 8, column_bytes, fixed_bytes)
    cap = budget(demand, device, workspace)
    assert cap == max(workspace - fixed_bytes, workspace // 4, 1)
    tiling = plan(tokens, vocabulary, demand, device, cap, keep)
    rows, columns = covers(tiling.rows, tokens), covers(tiling.columns, vocabulary)
    kept = tiling.kept * len(tiling.rows) * tiling.elements * 8  # each of a full tile's size
    used = rows * columns * tile_bytes + columns * column_bytes + kept
    assert used <= cap or rows * columns <= max(1, tiling.rows[0].stop)
    assert tiling.elements == rows * columns
    assert keep or tiling.kept == 0


@settings(deadline=None)
@given(**sizes)
def test_blocks_cover_everything_within_the_cap_and_are_long_enough(
    tokens, vocabulary, tile_bytes, column_bytes, fixed_bytes, workspace, device
):
    demand = Demand(tile_bytes, 8, column_bytes, fixed_bytes)
    cap = budget(demand, device, workspace)
    tiling = plan_blocks(tokens, vocabulary, demand, device, cap)
    fitting = (cap - min(cap // 4, 12 * 2**20 if device is CPU else cap)) // (8 * vocabulary)
    if tiling is None:
        assert fitting < max(1, min(tokens, 128))
        return
    assert fitting >= max(1, min(tokens, 128))
    rows, columns = covers(tiling.rows, tokens), covers(tiling.columns, vocabulary)
    assert tiling.kept == len(tiling.columns)
    assert rows <= max(1, fitting)
    scratch = rows * columns * tile_bytes + columns * column_bytes
    assert scratch <= cap // 4 or columns == 1
    assert device is CPU or rows in (tokens, 1) or rows % 128 == 0 or fitting < 128


def test_blocks_are_of_equal_height():
    demand = Demand(8, 4, fixed_bytes=1024 * 512 * 4)
    tiling = plan_blocks(1024, 128_256, demand, CPU, budget(demand, CPU, None))
    assert [rows.stop for rows in tiling.rows] == [512, 1024]
    tiling = plan_blocks(1024, 128_256, demand, CPU, 200 * 2**20)
    assert [rows.stop for rows in tiling.rows] == [342, 684, 1024]
    tiling = plan_blocks(8192, 128_256, Demand(8, 4), DEVICE, 400 * 2**20)
    assert tiling.rows[0].stop == 512  # 613 fit


def test_all_logits_are_kept_where_they_fit_and_some_where_they_nearly_do():
    def kept(workspace):
        return plan(256, 32_000, Demand(8, 4), CPU, workspace, keep=True)

    everything = kept(256 * 2**20)
    assert everything.kept == len(everything.columns)
    some = kept(20 * 2**20)  # 31 MiB of logits, 4 MiB of scratch
    assert 0 < some.kept < len(some.columns)


def test_a_device_uses_its_whole_workspace_for_one_slice():
    demand = Demand(8, 4)
    tiling = plan(1024, 128_256, demand, DEVICE, budget(demand, DEVICE, None), keep=False)
    assert tiling.columns[0].stop == 512 * 2**20 // (1024 * 8)


def test_cut_of_nothing_is_one_empty_slice():
    assert cut(0, 5) == [slice(0, 0)]
    assert cut(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_restore_puts_rows_back():
    x = torch.tensor([[1.0], [2.0]])
    assert restore(x, torch.tensor([2, 0]), 3).tolist() == [[2], [0], [1]]
    assert restore(x, None, 2) is x


def test_buffers_hand_out_views_of_the_same_memory():
    buffers = Buffers(12, torch.float32, torch.device("cpu"))
    assert buffers.tile(0, 3, 4).data_ptr() == buffers.tile(0, 2, 2).data_ptr() != buffers.tile(1, 3, 4).data_ptr()
    assert buffers.tile(1, 2, 3).is_contiguous()


def test_a_pair_lies_side_by_side_and_its_tiles_are_those_of_its_numbers():
    buffers = Buffers(12, torch.float32, torch.device("cpu"))
    buffers.tile(0, 3, 4)
    for rows, columns in ((3, 4), (2, 5), (1, 1), (3, 4)):
        both = buffers.pair(0, rows, columns)
        assert both.is_contiguous()
        for number in (0, 1):
            tile = buffers.tile(number, rows, columns)
            assert tile.data_ptr() == both[number].data_ptr()


def test_a_tile_of_another_dtype():
    buffers = Buffers(12, torch.float32, torch.device("cpu"))
    assert buffers.tile(2, 3, 4, torch.bfloat16).dtype == torch.bfloat16
