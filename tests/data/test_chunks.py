"""Long texts become several rows, and every token of them is a target once."""

import copy

import numpy as np
import pytest

from lightning_unlearn.data.chunks import chunk_rows, is_text
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.data.unlearning_records import UnlearningRecords

LONG = "The river song was written by Ana Lindqvist in 1987, in the city of Karachi. " * 3


def targets(rows):
    return [int(token) for row in rows for token in row.targets]


@pytest.mark.parametrize("length", [2, 7, 16, 400])
def test_no_token_is_lost_and_no_row_is_too_long(tiny_tokenizer, length):
    encoder = Encoder(tiny_tokenizer, max_length=length)
    rows = chunk_rows(encoder, [Record("", LONG), Record("", "Short.")])
    whole = [*tiny_tokenizer(LONG, add_special_tokens=False).input_ids, encoder.end_id]
    short = [*tiny_tokenizer("Short.", add_special_tokens=False).input_ids, encoder.end_id]
    assert targets(rows) == whole + short
    assert all(len(row.input_ids) < length for row in rows)  # with its last target a row has max_length tokens
    assert all(row.input_ids[0] == tiny_tokenizer.bos_token_id for row in rows)
    for row in rows:  # each target is predicted from the one before
        np.testing.assert_array_equal(row.input_ids[1:], row.targets[:-1])
        np.testing.assert_array_equal(row.target_positions, np.arange(len(row.targets)))


def test_without_bos_a_row_starts_with_the_token_before_it(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.bos_token = None
    rows = chunk_rows(Encoder(tokenizer, max_length=6), [Record("", LONG)])
    whole = [*tokenizer(LONG, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert targets(rows) == whole[1:]  # nothing comes before the first
    assert [int(row.input_ids[0]) for row in rows] == whole[:-1:5]


def test_a_short_text_is_the_row_that_the_encoder_makes(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer)
    (row,), expected = chunk_rows(encoder, [Record("", LONG)]), encoder.row(Record("", LONG))
    for field in ("input_ids", "target_positions", "targets"):
        np.testing.assert_array_equal(getattr(row, field), getattr(expected, field))


def test_a_data_module_cuts_texts_and_offers_no_refusals_with_them(tiny_tokenizer):
    rows = [{"text": LONG}, {"text": "Short."}]
    asked = [{"question": "Who?", "answer": "Ana."}]
    data = UnlearningRecords(forget=rows, retain=asked, tokenizer=tiny_tokenizer, max_length=16)
    assert data.roles == ("forget", "retain", "retain_idk", "forget_unanswerable")
    data.setup("fit")
    whole = [*tiny_tokenizer(LONG, add_special_tokens=False).input_ids, tiny_tokenizer.eos_token_id]
    made = data._tokenise()
    assert len(made["forget"]) > 2
    assert targets(made["forget"])[: len(whole)] == whole
    assert len(made["retain"]) == 1


def test_what_is_a_text():
    assert is_text(Record("", "Once."))
    assert not is_text(Record("Who?", "Ana."))
    assert not is_text(Record("", " the river.", prefill="Once by"))
