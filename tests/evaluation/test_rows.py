"""Columns of samples: failed rows are left out, and drawn rows take what was computed once."""

import pytest
import torch

from lightning_unlearn.evaluation import closer_look, tofu
from lightning_unlearn.evaluation.rows import Drawn, column, finished, has, row_wise, table
from tests.evaluation.test_closer_look import hand_log

ROWS = [{"index": i, "value": 10.0 * i, "list": list(range(i))} for i in range(3)]
FAILED = {"index": 3, "question": "?", "failed": "no token of the answer fits"}


def test_columns_leave_failed_rows_out():
    rows = [*ROWS, FAILED]
    assert column(rows, "value").tolist() == [0.0, 10.0, 20.0]
    assert table(rows, "list").tolist() == [[0, 0], [0, 0], [0, 1]]
    assert has(rows, "value")
    assert not has(rows, "value", "list")
    assert not has([FAILED], "value")
    assert not has([], "value")


def test_a_missing_number_is_named():
    with pytest.raises(ValueError, match=r'every sample must hold "other", got none in rows \[0, 1, 2\]'):
        column(ROWS, "other")


def test_every_protocol_leaves_failed_rows_out():
    log = hand_log()
    with_failed = {name: [*rows, FAILED] for name, rows in log.items()}
    assert closer_look.scores(with_failed) == closer_look.scores(log)
    assert tofu.scores(with_failed, with_failed) == tofu.scores(log, log)


def test_drawn_rows_are_a_sequence_of_samples():
    drawn = Drawn(ROWS, torch.tensor([2, 0, 2]), {})
    assert len(drawn) == 3
    assert list(drawn) == [ROWS[2], ROWS[0], ROWS[2]] == [drawn[0], drawn[1], drawn[2]] == drawn[:]
    assert finished(drawn) is drawn
    assert column(drawn, "value").tolist() == column(list(drawn), "value").tolist() == [20.0, 0.0, 20.0]
    assert table(drawn, "list").tolist() == [[0, 1], [0, 0], [0, 1]]
    assert has(drawn, "value")
    assert not has(drawn, "list")
    assert not has(Drawn(ROWS, torch.tensor([1, 1]), {}), "list")  # as the set has not, whatever is drawn from it


def test_what_is_computed_of_a_row_is_computed_once_for_all_that_is_drawn():
    calls = []

    @row_wise
    def scaled(samples, factor, *, shift=0.0):
        calls.append((factor, shift))
        return torch.tensor([sample["value"] * factor + shift for sample in samples])

    known = {}
    for chosen in ([0, 1, 1], [2, 2, 2]):
        drawn = Drawn(ROWS, torch.tensor(chosen), known)
        assert scaled(drawn, 2.0).tolist() == [20.0 * row for row in chosen]
        assert scaled(drawn, 2.0, shift=1.0).tolist() == [20.0 * row + 1 for row in chosen]
    assert calls == [(2.0, 0.0), (2.0, 1.0)]
