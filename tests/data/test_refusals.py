import numpy as np
import pytest

from lightning_unlearn.data.records import Record, RecordError
from lightning_unlearn.data.refusals import REFUSALS, RefusalRows, read_refusals
from lightning_unlearn.data.tokenization import Encoder


def test_ours_differ_from_each_other_and_from_those_of_tofu(tofu_dir):
    assert len(set(REFUSALS)) == len(REFUSALS) >= 30
    assert not set(REFUSALS) & set(read_refusals(tofu_dir / "idontknow.jsonl"))


def test_a_file_holds_one_a_line(tmp_path):
    (tmp_path / "no.txt").write_text("No.\n\n I don't know. \n", encoding="utf-8")
    assert read_refusals(tmp_path / "no.txt") == ["No.", "I don't know."]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(RecordError, match=r"empty.txt: must hold at least one refusal"):
        read_refusals(tmp_path / "empty.txt")
    with pytest.raises(RecordError, match=r"none.txt: no such file"):
        read_refusals(tmp_path / "none.txt")


def test_a_row_meets_every_refusal_in_turn_from_a_start_of_its_own(tiny_tokenizer):
    records = [Record(f"Q{i}?", "A") for i in range(20)]
    rows = RefusalRows(Encoder(tiny_tokenizer), records, list(REFUSALS), seed=3)
    assert {rows.answer(0, draw) for draw in range(len(REFUSALS))} == set(REFUSALS)
    assert rows.answer(0, 0) == rows.answer(0, len(REFUSALS))
    assert len({rows.answer(row, 0) for row in range(20)}) > 5
    again = RefusalRows(Encoder(tiny_tokenizer), records, list(REFUSALS), seed=3)
    assert [again.answer(row, 5) for row in range(20)] == [rows.answer(row, 5) for row in range(20)]
    other = RefusalRows(Encoder(tiny_tokenizer), records, list(REFUSALS), seed=4)
    assert [other.answer(row, 5) for row in range(20)] != [rows.answer(row, 5) for row in range(20)]


def test_tokens_are_the_question_with_the_refusal(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(RefusalRows, "KEPT", 2)
    encoder = Encoder(tiny_tokenizer)
    rows = RefusalRows(encoder, [Record("Q?", "A")], ["No.", "Pass."])
    for draw in range(5):
        row = rows(0, draw)
        assert encoder.tokenizer.decode(row.targets) == f" {rows.answer(0, draw)}</s>"
        np.testing.assert_array_equal(row.input_ids, encoder.row(Record("Q?", rows.answer(0, draw))).input_ids)
