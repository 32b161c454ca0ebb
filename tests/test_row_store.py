from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_unlearn.data.packing import pack
from lightning_unlearn.data.padded import from_padded
from lightning_unlearn.row_store import Row, RowStore, rows_of
from tests.dense import ROWS, as_padded, row

A, B, C = (bytes([i]) * 16 for i in (1, 2, 3))


def write(store: RowStore, **rows: torch.Tensor) -> None:
    with store.writer() as part:
        part.append({{"a": A, "b": B, "c": C}[name]: value for name, value in rows.items()})
    store.reload()


def quietly(folder) -> RowStore:
    """The store of a folder in which nothing is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return RowStore(folder)


# -- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_rows_of_a_batch_are_those_that_were_packed(role):
    found = list(rows_of(pack(ROWS), role))
    assert len(found) == len(ROWS[role])
    for ours, theirs in zip(found, ROWS[role], strict=True):
        assert np.array_equal(ours.ids, theirs.input_ids)
        assert np.array_equal(ours.positions, theirs.target_positions)
        assert np.array_equal(ours.targets, theirs.targets)
        assert ours.attended is None


def test_a_row_has_one_key_however_it_comes():
    """Packed or padded, alone or among others, in whatever role."""
    wanted = [r.key for r in rows_of(pack(ROWS), "retain")]
    assert len(set(wanted)) == 3
    for batch in (as_padded(ROWS, width=24), as_padded(ROWS, left=True), as_padded({"retain": ROWS["retain"]})):
        assert [r.key for r in rows_of(from_padded(batch), "retain")] == wanted
    assert [r.key for r in rows_of(pack({"forget": ROWS["retain"]}), "forget")] == wanted


def test_rows_that_a_model_answers_otherwise_have_other_keys():
    batches = [
        pack({"forget": [one]})
        for one in (
            row([5, 6, 7], [1, 2], [7, 1]),
            row([5, 6, 8], [1, 2], [7, 1]),  # another token
            row([5, 6, 7], [0, 2], [7, 1]),  # another position
            row([5, 6, 7], [1, 2], [7, 2]),  # another target
            row([5, 6], [0, 1], [7, 1]),
            row([5, 6, 7, 1], [2], [7]),  # the same numbers, cut elsewhere
        )
    ]
    batches += [replace(batches[0], attended=torch.tensor(mask)) for mask in ([False, True, True], [True, False, True])]
    assert len({r.key for batch in batches for r in rows_of(batch, "forget")}) == 8


def test_a_mask_that_hides_nothing_is_none():
    batch = pack({"forget": [row([5, 6, 7], [1, 2], [7, 1])]})
    masked = replace(batch, attended=torch.ones(3, dtype=torch.bool))
    assert [r.key for r in rows_of(masked, "forget")] == [r.key for r in rows_of(batch, "forget")]


def test_rows_without_targets_are_left_out():
    batch = pack({"forget": [row([4], [], []), row([5, 6], [1], [7]), row([8], [], [])]})
    assert [r.ids.tolist() for r in rows_of(batch, "forget")] == [[5, 6]]


def test_keys_do_not_depend_on_the_process():
    """They name rows on disk: by hand, blake2b of [2, 1, 0, 5, 6, 1, 7]."""
    key = Row(np.array([5, 6]), np.array([1]), np.array([7]), None).key
    assert key.hex() == "08919623675f6f567c9048ace5fab649"


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_values_come_back_to_the_last_bit(tmp_path, dtype, shape):
    values = {name: torch.randn(n, *shape).to(dtype) for name, n in (("a", 3), ("b", 1), ("c", 7))}
    store = RowStore(tmp_path)
    write(store, a=values["a"], b=values["b"])
    write(store, c=values["c"])
    for found in (store, quietly(tmp_path)):
        assert len(found) == 3
        for key, value in zip((A, B, C), values.values(), strict=True):
            assert found.take(key).dtype == dtype
            assert torch.equal(found.take(key), value)


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    store = quietly(tmp_path / "none")
    assert len(store) == 0
    assert A not in store


def test_two_writers_at_once_do_not_meet(tmp_path):
    store = RowStore(tmp_path)
    with store.writer() as first, store.writer() as second:
        first.append({A: torch.ones(2)})
        second.append({B: torch.zeros(3)})
        first.append({C: torch.full((1,), 7.0)})
        second.append({A: torch.ones(2)})
    store = quietly(tmp_path)
    assert [store.take(key).tolist() for key in (A, B, C)] == [[1, 1], [0, 0, 0], [7]]


def test_what_a_killed_writer_had_finished_is_there(tmp_path):
    store = RowStore(tmp_path)
    with store.writer() as part:
        part.append({A: torch.ones(2)})
        (values,), (index,) = tmp_path.glob("*.values"), tmp_path.glob("*.index")
        values.write_bytes(values.read_bytes() + b"abc")  # values of a row that was not finished
        index.write_text(index.read_text() + '{"key": "0202')  # a line that was cut off
        found = quietly(tmp_path)
    assert found.take(A).tolist() == [1, 1]
    assert len(found) == 1


def test_a_writer_killed_before_its_first_line(tmp_path):
    with RowStore(tmp_path).writer():
        assert len(quietly(tmp_path)) == 0


def test_values_that_are_cut_off_are_lost_aloud_until_written_again(tmp_path):
    write(RowStore(tmp_path), a=torch.ones(2), b=torch.zeros(3))
    (values,) = tmp_path.glob("*.values")
    values.write_bytes(values.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="end before 1 of its rows, which are lost"):
        store = RowStore(tmp_path)
    assert A in store
    assert B not in store
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(store, b=torch.zeros(3))
    assert quietly(tmp_path).take(B).tolist() == [0, 0, 0]


def test_values_that_are_gone(tmp_path):
    write(RowStore(tmp_path), a=torch.ones(2))
    next(tmp_path.glob("*.values")).unlink()
    with pytest.warns(UserWarning, match="1 of its rows, which are lost"):
        assert len(RowStore(tmp_path)) == 0


@pytest.mark.parametrize("content", ["not JSON\n", "[1, 2]\n", '{"dtype": "float33", "shape": []}\n', "{}\n"])
def test_an_index_that_cannot_be_read_is_left_out_aloud(tmp_path, content):
    write(RowStore(tmp_path), a=torch.ones(2))
    write(RowStore(tmp_path), b=torch.ones(2))
    first = sorted(tmp_path.glob("*.index"))[0]
    first.write_text(content)
    with pytest.warns(UserWarning, match="cannot be read, and is left out"):
        assert len(RowStore(tmp_path)) == 1
