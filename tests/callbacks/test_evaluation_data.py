"""What an evaluation reads of a data module."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lightning_unlearn.callbacks.evaluation_data import set_options, sets_and_encoder, texts
from lightning_unlearn.data.set_options import LIKELIHOOD_ONLY
from lightning_unlearn.data.unlearning_records import UnlearningRecords

ROWS = [{"question": "Who?", "answer": "Ana."}, {"question": "Where?", "answer": "Here."}]


def trainer(tiny_tokenizer, **options):
    data = UnlearningRecords(forget=ROWS[:1], tokenizer=tiny_tokenizer, **options)
    data.setup("test")
    return SimpleNamespace(datamodule=data)


def test_sets_encoder_and_how_they_are_asked(tiny_tokenizer):
    found = trainer(tiny_tokenizer)
    sets, encoder = sets_and_encoder(found)
    assert (list(sets), encoder) == (["forget"], found.datamodule.encoder)
    assert set_options(found) == {"holdout": LIKELIHOOD_ONLY}


def test_texts_change_with_what_is_asked_and_not_with_where_it_lies(tiny_tokenizer):
    first = texts(trainer(tiny_tokenizer))
    assert first == texts(trainer(tiny_tokenizer))
    assert first != texts(trainer(tiny_tokenizer, template="{question}"))
    assert first != texts(trainer(tiny_tokenizer, holdout=ROWS[1:]))
    assert "rows:1" not in str(first)


def test_other_data_are_refused():
    for data, name in ((None, "no data module"), (object(), "object")):
        with pytest.raises(ValueError, match=f"Evaluate needs a data module with .*; got {name}"):
            sets_and_encoder(SimpleNamespace(datamodule=data))
