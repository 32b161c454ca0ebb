"""WMDP's corpora as roles and evaluation sets."""

import pytest

from lightning_unlearn.data.records import RecordError
from lightning_unlearn.data.wmdp import WMDP
from tests import published
from tests.published import write_rows


@pytest.fixture
def folder(tmp_path):
    return published.wmdp(tmp_path)


def test_texts_of_both_hazards_are_cut_into_rows_and_short_ones_left_out(folder, tiny_tokenizer):
    data = WMDP(data=folder, retain=folder / "wikitext.jsonl", tokenizer=tiny_tokenizer, max_length=64)
    assert {role: len(rows) for role, rows in data.records().items()} == {"forget": 2, "retain": 1}
    data.setup("fit")
    whole = [*tiny_tokenizer(data.records()["forget"][0].answer).input_ids]
    read = [int(token) for row in data._tokenise()["forget"] for token in row.targets]
    assert read[: len(whole)] == [token for token in whole if token] + [tiny_tokenizer.eos_token_id]
    assert all(not data.set_options()[name].generate for name in data.evaluation_sets())
    cyber = WMDP(hazards=["cyber"], data=folder, retain=folder / "wikitext.jsonl", tokenizer=tiny_tokenizer)
    assert [record.answer for record in cyber.records()["forget"]] == [published.text("Bo Ek", "Oslo")]


def test_the_hub_has_the_corpora_in_two_places(tiny_tokenizer, monkeypatch):
    asked = []
    row = [("place", {"text": "x" * 60})]
    monkeypatch.setattr("lightning_unlearn.data.wmdp.read_rows", lambda source, **_: asked.append(source) or row)
    monkeypatch.setattr("lightning_unlearn.data.wmdp.read_subset", lambda *names: asked.append(names) or row)
    WMDP(data="some/corpora", tokenizer=tiny_tokenizer).read_records()
    assert asked == [
        "cais/wmdp-bio-forget-corpus",
        ("some/corpora", "cyber-forget-corpus", "train"),
        "Salesforce/wikitext:wikitext-2-raw-v1:test",
    ]


def test_mistakes_are_told(folder, tiny_tokenizer):
    with pytest.raises(ValueError, match=r"hazards must be some of bio, cyber, got \['chem'\]"):
        WMDP(hazards=["chem"], tokenizer=tiny_tokenizer)
    with pytest.raises(RecordError, match="bio: no text has more than 5000 characters"):
        WMDP(data=folder, min_characters=5000, tokenizer=tiny_tokenizer).records()
    write_rows(folder / "bio-forget-corpus.jsonl", [{"txt": "?"}])
    with pytest.raises(RecordError, match=r'bio-forget-corpus\.jsonl:1: a row must have .* or "text"'):
        WMDP(data=folder, tokenizer=tiny_tokenizer).records()
