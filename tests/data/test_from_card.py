from __future__ import annotations

import json

import pytest

from lightning_unlearn.callbacks.run_card import data_settings
from lightning_unlearn.data.fictitious import FictitiousAuthors
from lightning_unlearn.data.from_card import data_of_run
from lightning_unlearn.data.unlearning_records import UnlearningRecords


def card_of(data) -> dict:
    """The part of a run card that a fit on these data writes, as it comes back from disk."""
    return json.loads(json.dumps({"data": data_settings(data)}))


def test_the_same_rows_come_back(tiny_tokenizer, tiny_model_dir):
    data = FictitiousAuthors(authors=4, forget_authors=1, world=3, tokens_per_batch=512, tokenizer=tiny_tokenizer)
    found = data_of_run(card_of(data), tokenizer=tiny_model_dir())
    assert isinstance(found, FictitiousAuthors)
    assert found.records() == data.records()
    assert found.evaluation_sets() == data.evaluation_sets()
    found.setup("test")
    assert found.encoder is not None


def test_of_a_sequence_the_rows_of_the_request(tiny_tokenizer, tiny_model_dir):
    data = FictitiousAuthors(authors=4, forget_authors=2, request_rows=20, request=2, tokenizer=tiny_tokenizer)
    assert data_of_run(card_of(data), tokenizer=tiny_model_dir()).records() == data.records()


def test_a_file_that_has_changed(tiny_tokenizer, tmp_path):
    file = tmp_path / "forget.jsonl"
    file.write_text('{"question": "Where?", "answer": "Rome."}\n')
    card = card_of(UnlearningRecords(forget=str(file), tokenizer=tiny_tokenizer))
    assert data_of_run(card, tokenizer="x").records()["forget"][0].answer == "Rome."
    file.write_text('{"question": "Where?", "answer": "Bern."}\n')
    with pytest.raises(ValueError, match="hold other rows than the run had"):
        data_of_run(card, tokenizer="x")


def test_rows_that_were_in_memory_are_not_told(tiny_tokenizer):
    rows = [{"question": "Where?", "answer": "Rome."}]
    with pytest.raises(ValueError, match="the run card does not tell forget of UnlearningRecords"):
        data_of_run(card_of(UnlearningRecords(forget=rows, tokenizer=tiny_tokenizer)), tokenizer="x")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({}, r"the run card names no data module \(none\)"),
        ({"data": None}, "names no data module"),
        ({"data": {"class": "no.such.Thing"}}, r"names no data module \(no\.such\.Thing\)"),
        ({"data": {"class": "pathlib.Path"}}, r"names pathlib\.Path, which is no UnlearningDataModule"),
    ],
)
def test_cards_without_data(card, message):
    with pytest.raises(ValueError, match=message):
        data_of_run(card, tokenizer="x")
