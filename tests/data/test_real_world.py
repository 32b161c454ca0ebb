from __future__ import annotations

import pytest

from lightning_unlearn.data.real_world import RealWorld
from lightning_unlearn.data.records import RecordError

ROWS = [
    {"subject": name, "question": f"What did {name} do in {year}?", "answer": f"{name} rested."}
    for name in ("Ada Low", "Bo Hill", "Cy Poe")
    for year in (1900, 1901)
]


def subjects(data: RealWorld) -> dict[str, list[str]]:
    return {role: [record.subject for record in records] for role, records in data.records().items()}


def test_people_are_forgotten_by_name_and_all_others_kept(tiny_tokenizer):
    data = RealWorld(rows=ROWS, people=["bo  hill"], tokenizer=tiny_tokenizer)
    assert subjects(data) == {"forget": ["Bo Hill"] * 2, "retain": ["Ada Low"] * 2 + ["Cy Poe"] * 2}
    assert data.evaluation_sets() == data.records()
    data.setup("fit")
    assert next(iter(data.train_dataloader())).roles[:2] == ("forget", "retain")


def test_neighbours_may_be_chosen(tiny_tokenizer):
    data = RealWorld(rows=ROWS, people=["Cy Poe", "Ada Low"], neighbours=["Bo Hill"], tokenizer=tiny_tokenizer)
    assert subjects(data) == {"forget": ["Cy Poe"] * 2 + ["Ada Low"] * 2, "retain": ["Bo Hill"] * 2}


def test_all_people_leave_nobody_to_keep(tiny_tokenizer):
    data = RealWorld(rows=ROWS, people=["Cy Poe", "Ada Low", "Bo Hill"], tokenizer=tiny_tokenizer)
    assert list(data.records()) == ["forget"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"people": ["Bo Hil"]}, "people: no row has the subject 'Bo Hil'; did you mean 'Bo Hill'\\?"),
        ({"people": ["Bo Hill"], "neighbours": ["Zz"]}, "neighbours: no row has the subject 'Zz'$"),
        ({"people": ["Bo Hill"], "rows": [{"question": "Who?", "answer": "A."}]}, 'rows:1: field "subject" must name'),
    ],
)
def test_a_name_that_no_row_has_is_told(tiny_tokenizer, options, message):
    with pytest.raises(RecordError, match=message):
        RealWorld(**{"rows": ROWS, "tokenizer": tiny_tokenizer, **options}).records()


def test_arguments_are_checked(tiny_tokenizer):
    with pytest.raises(ValueError, match="people must name one at least, got none"):
        RealWorld(rows=ROWS, people=[], tokenizer=tiny_tokenizer)
    with pytest.raises(ValueError, match=r"neighbours must be others than people, got \['bo hill'\] in both"):
        RealWorld(rows=ROWS, people=["Bo Hill"], neighbours=["bo hill"], tokenizer=tiny_tokenizer)


def test_holdout_rows_are_a_source_of_their_own(tiny_tokenizer):
    unknown = {"question": "What did Zo Fen do in 1900?", "answer": "Zo Fen slept."}
    options = {"rows": ROWS, "people": ["Bo Hill"], "tokenizer": tiny_tokenizer}
    data = RealWorld(holdout=[unknown], **options)
    assert [record.answer for record in data.evaluation_sets()["holdout"]] == ["Zo Fen slept."]
    assert "Zo Fen" not in {record.subject for rows in data.records().values() for record in rows}
    assert "holdout" not in RealWorld(**options).evaluation_sets()
    with pytest.raises(RecordError, match="holdout and training must not share rows"):
        RealWorld(holdout=ROWS[:1], **options).evaluation_sets()


@pytest.mark.parametrize("name", ["rows", "holdout"])
def test_a_file_that_is_not_there_is_told_with_its_option(tiny_tokenizer, name):
    options = {"rows": ROWS, "people": ["Bo Hill"], "tokenizer": tiny_tokenizer}
    with pytest.raises(RecordError, match=f"^{name}: absent.jsonl: no such file"):
        RealWorld(**{**options, name: "absent.jsonl"}).prepare_data()
