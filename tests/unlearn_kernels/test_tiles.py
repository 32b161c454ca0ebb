from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_kernels.tiles import Buffers, cut, plan, restore


def used(tiling, *, buffers, logits, column_bytes, item, tokens):
    rows = max(s.stop - s.start for s in tiling.rows)
    columns = max(s.stop - s.start for s in tiling.columns)
    kept = sum((s.stop - s.start) for s in tiling.columns[: tiling.kept]) * tokens * logits * item
    return rows * columns * buffers * item + columns * column_bytes + kept, rows * columns


@settings(deadline=None)
@given(
    st.integers(0, 5000),
    st.integers(1, 300_000),
    st.integers(2, 7),
    st.sampled_from([0, 8192, 65536]),
    st.integers(1, 2**30),
    st.booleans(),
)
def test_tiles_cover_everything_within_the_cap(tokens, vocabulary, buffers, column_bytes, cap, keep):
    tiling = plan(
        tokens,
        vocabulary,
        buffers=buffers,
        logits=2,
        column_bytes=column_bytes,
        dtype=torch.float32,
        device=torch.device("cpu"),
        workspace_bytes=cap,
        keep=keep,
    )
    for slices, total in ((tiling.rows, tokens), (tiling.columns, vocabulary)):
        assert slices[0].start == 0
        assert slices[-1].stop == total
        assert all(a.stop == b.start for a, b in pairwise(slices))
    bytes_used, elements = used(tiling, buffers=buffers, logits=2, column_bytes=column_bytes, item=4, tokens=tokens)
    assert bytes_used <= cap or elements <= max(1, tiling.rows[0].stop)
    assert tiling.elements == elements
    assert keep or tiling.kept == 0


def test_all_logits_are_kept_where_they_fit_and_some_where_they_nearly_do():
    def kept(workspace):
        options = {"buffers": 2, "logits": 1, "column_bytes": 0, "dtype": torch.float32, "keep": True}
        return plan(256, 32_000, device=torch.device("cpu"), workspace_bytes=workspace, **options)

    everything = kept(None)
    assert everything.kept == len(everything.columns)
    some = kept(40 * 2**20)  # 31 MiB of logits, 24 MiB of scratch
    assert 0 < some.kept < len(some.columns)


def test_a_device_uses_its_whole_workspace_for_one_slice():
    options = {"buffers": 2, "logits": 1, "column_bytes": 0, "dtype": torch.float32, "keep": False}
    tiling = plan(1024, 128_256, device=torch.device("meta"), workspace_bytes=None, **options)
    assert tiling.columns[0].stop == 512 * 2**20 // (1024 * 2 * 4)


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
