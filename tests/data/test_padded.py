from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_unlearn.data.packing import RoleScale, pack
from lightning_unlearn.data.padded import from_padded, rows_from_labels
from tests.dense import as_padded, make_rows

I = -100  # noqa: E741 the ignored label


def tensors(ids, labels, mask=None) -> dict[str, torch.Tensor]:
    role = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    return role if mask is None else {**role, "attention_mask": torch.tensor(mask)}


def test_right_padded_rows_by_hand():
    batch = from_padded(
        {
            "forget": tensors(
                [[5, 6, 7, 8], [9, 10, 0, 0]], [[I, I, 7, 8], [I, 10, I, I]], [[1, 1, 1, 1], [1, 1, 0, 0]]
            ),
            "retain": tensors([[20, 21]], [[I, 21]]),
        }
    )
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 9, 10, 20, 21]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 0, 1]
    # a label is predicted from the position before it
    assert batch.target_index.tolist() == [1, 2, 4, 6]
    assert batch.targets.tolist() == [7, 8, 10, 21]
    assert batch.target_row.tolist() == [0, 0, 1, 2]
    assert batch.attended is None


def test_an_eos_labelled_inside_the_padding_is_carried_as_a_target():
    """TOFU and closer-look label one eos at a position whose attention_mask is 0; pad token = eos token."""
    batch = from_padded({"forget": tensors([[5, 6, 1, 1]], [[I, 6, 1, I]], [[1, 1, 0, 0]])})
    assert batch.input_ids.tolist() == [5, 6]
    assert batch.targets.tolist() == [6, 1]
    assert batch.target_index.tolist() == [0, 1]


def test_ignored_labels_never_become_targets():
    """UNDIAL's authors index the vocabulary with -100."""
    batch = from_padded({"forget": tensors([[5, 6, 7]], [[I, I, 7]])})
    assert (batch.targets >= 0).all()
    assert len(batch.targets) == 1


def test_the_label_of_the_first_token_predicts_nothing():
    batch = from_padded({"forget": tensors([[5, 6]], [[5, 6]])})
    assert batch.targets.tolist() == [6]


def test_left_padding_is_dropped():
    batch = from_padded({"forget": tensors([[0, 0, 5, 6], [7, 8, 9, 4]], [[I, I, I, 6]] * 2, [[0, 0, 1, 1], [1] * 4])})
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 9, 4]
    assert batch.position_ids.tolist() == [0, 1, 0, 1, 2, 3]
    assert batch.target_index.tolist() == [0, 4]


def test_the_first_token_of_a_left_padded_row_is_no_target():
    batch = from_padded({"forget": tensors([[0, 5, 6]], [[I, 5, 6]], [[0, 1, 1]])})
    assert batch.targets.tolist() == [6]


def test_labels_deep_in_right_padding_keep_the_padding():
    batch = from_padded({"forget": tensors([[5, 6, 1, 1]], [[I, 6, 1, 1]], [[1, 1, 0, 0]])})
    assert batch.lengths == (4,)
    assert batch.attended.tolist() == [True, True, False, False]
    assert batch.targets.tolist() == [6, 1, 1]


def test_labels_deep_in_padding_on_the_left_are_refused():
    with pytest.raises(ValueError, match=r'batch\["forget"\]: .* right padding'):
        from_padded({"forget": tensors([[0, 5, 6, 1, 1]], [[I, 5, 6, 1, 1]], [[0, 1, 1, 0, 0]])})


def test_masked_tokens_between_attended_ones_stay_where_they_are():
    """Dropping them would move the tokens after them to other positions than the same model sees elsewhere."""
    batch = from_padded({"forget": tensors([[5, 6, 7, 8]], [[I, I, I, 8]], [[1, 0, 1, 1]])})
    assert batch.input_ids.tolist() == [5, 6, 7, 8]
    assert batch.attended.tolist() == [True, False, True, True]
    assert batch.target_index.tolist() == [2]


def test_sequence_targets_leave_kept_padding_alone():
    """Averaging over padding is the mistake of five existing code bases; labels deep in padding must not bring it."""
    batch = from_padded({"forget": tensors([[5, 6, 1, 1, 1]], [[I, 6, 1, 1, I]], [[1, 1, 0, 0, 0]])})
    wide = batch.with_sequence_targets("forget")
    assert wide.targets.tolist() == [6, 1, 1]


def test_keep_padding_labels_every_position():
    batch = from_padded(
        {
            "forget": tensors([[5, 6, 1, 1]], [[I, 6, 1, I]], [[1, 1, 0, 0]]),
            "retain": tensors([[7, 8, 1]], [[I, 8, I]], [[1, 1, 0]]),
        },
        keep_padding=("forget",),
    )
    assert batch.targets.tolist() == [6, 1, 1, 8]
    assert batch.lengths == (4, 2)
    assert batch.attended.tolist() == [True, True, False, False, True, True]
    assert batch.sequence_roles == {"forget"}


def test_scales_are_taken_over():
    scale = RoleScale(1.0, 2.0, 3.0)
    assert from_padded({"forget": tensors([[5, 6]], [[I, 6]])}, scales={"forget": scale}).scales == {"forget": scale}


def test_a_row_without_labels_takes_part_without_targets():
    batch = from_padded({"forget": tensors([[5, 6], [7, 8]], [[I, I], [I, 8]])})
    assert batch.lengths == (2, 2)
    assert batch.target_row.tolist() == [1]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "at least one role"),
        ({"forget": {"input_ids": torch.ones(1, 2).long()}}, r'batch\["forget"\] must hold "input_ids" and "labels"'),
        ({"forget": [torch.ones(1, 2).long()] * 3}, r'batch\["forget"\] must hold "input_ids" and "labels".*got list'),
        ({"forget": tensors([5, 6], [I, 6])}, r"one shape \[B, L\]"),
        ({"forget": tensors([[5, 6]], [[I, 6, 7]])}, r"one shape \[B, L\]"),
        ({"forget": tensors([[5, 6]], [[I, 6]], [[1]])}, r"one shape \[B, L\]"),
        ({"forget": tensors([[5, 6], [1, 1]], [[I, 6]] * 2, [[1, 1], [0, 0]])}, r"only padding in rows \[1\]"),
        ({"forget": tensors([[5, 6, 7]], [[I, -1, 7]])}, r"labels must be token ids or -100, got -1"),
    ],
)
def test_what_cannot_be_packed_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        from_padded(batch)


@st.composite
def padded_roles(draw):
    """Random ids, labels and masks [B, L]: right-padded, left-padded or with holes."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 7))

    def table(values, least=0):
        row = st.lists(values, min_size=width, max_size=width).filter(lambda r: sum(map(bool, r)) >= least)
        return draw(st.lists(row, min_size=rows, max_size=rows))

    mask = table(st.booleans(), least=1)
    if draw(st.booleans()):
        mask = [sorted(row, reverse=True) for row in mask]
    return tensors(
        table(st.integers(3, 99)), table(st.sampled_from([I, I, 1, 5, 6])), [list(map(int, r)) for r in mask]
    )


@given(padded_roles())
@settings(max_examples=200, deadline=None)
def test_every_label_keeps_its_row_and_the_token_before_it(role):
    ids, labels, mask = role["input_ids"], role["labels"], role["attention_mask"]
    expected = [
        (row, int(labels[row, at]), int(ids[row, at - 1]))
        for row in range(len(ids))
        for at in range(1, ids.shape[1])
        if labels[row, at] != I and mask[row, :at].any()
    ]
    try:
        batch = from_padded({"forget": role})
    except ValueError as error:
        assert "need right padding" in str(error)  # noqa: PT017 some random masks are refused
        assert not mask[:, 0].all()
        return
    read = batch.input_ids[batch.target_index].tolist()
    assert list(zip(batch.target_row.tolist(), batch.targets.tolist(), read, strict=True)) == expected
    seen = ids[mask.bool()].tolist()
    kept = batch.input_ids if batch.attended is None else batch.input_ids[batch.attended]
    assert kept.tolist() == seen


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("lists", [False, True])
def test_rows_of_a_padded_dataset_are_those_that_a_padded_batch_holds(left, lists):
    """Each labels one eos in the padding behind it."""
    rows = make_rows([4, 1, 7, 2], seed=8)
    three = as_padded({"forget": rows}, left=left)["forget"]
    columns = [three[name] for name in ("input_ids", "labels", "attention_mask")]
    found = rows_from_labels(*(column.tolist() if lists else column for column in columns))
    for ours, theirs in zip(found, rows, strict=True):
        for name in ("input_ids", "target_positions", "targets"):
            assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
    ours = pack({"forget": found})
    assert ours.input_ids.tolist() == pack({"forget": rows}).input_ids.tolist()


def test_rows_of_ragged_lists_by_hand():
    first, second = rows_from_labels([[5, 6, 7], [8, 9]], [[5, I, 7], [I, 9]])
    # nothing precedes the 5; 7 is predicted from position 1, 9 from position 0
    assert (first.input_ids.tolist(), first.target_positions.tolist(), first.targets.tolist()) == ([5, 6, 7], [1], [7])
    assert (second.target_positions.tolist(), second.targets.tolist()) == ([0], [9])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([[1]], [[1], [2]]), "must hold as many rows, got 1, 2 and 1"),
        (([[1], [1, 2]], [[1], [2]]), r"row 1: .* must be of one length, got \(2,\), \(1,\) and \(2,\)"),
        (([[1, 2]], [[I, 2]], [[0, 0]]), r"row 0: attention_mask must keep tokens without a gap, got \[0, 0\]"),
        (([[1, 2, 3]], [[I, 2, 3]], [[1, 0, 1]]), r"row 0: attention_mask must keep .* got \[1, 0, 1\]"),
        (([[1, 2]], [[I, -1]]), "row 0: labels must be token ids or -100, got -1"),
        (([[1, 2, 3, 4]], [[I, I, I, 4]], [[1, 1, 0, 0]]), "row 0: labels must lie at most one .* token, 1, got 3"),
    ],
)
def test_rows_that_cannot_be_made(columns, message):
    with pytest.raises(ValueError, match=message):
        rows_from_labels(*columns)
