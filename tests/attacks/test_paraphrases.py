from __future__ import annotations

import json

import pytest

from lightning_unlearn.attacks.paraphrases import NONE, Paraphrases, read_prompts
from lightning_unlearn.data.records import Record, RecordError
from tests.attacks.exams import FORGET, exam

ROWS = [
    {"question": "where does  A live?", "german": "Wo wohnt A?", "formal": "Kindly state the residence of A."},
    {"question": "Where does B live?", "german": "Wo wohnt B?"},
    {"question": "Who else?", "german": "Wer sonst?"},
]


def written(folder, rows=ROWS):
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_rows_own_paraphrases(tiny_model_dir):
    plain = Record("Where is C?", "Nowhere.")
    asked = exam(tiny_model_dir(), forget=[*FORGET[:2], plain])
    attack = Paraphrases()
    assert attack.asked(asked) == [*FORGET[:2], NONE]
    (variant,) = attack.variants(asked).items()
    assert variant[0] == "paraphrased"
    *others, none = variant[1]
    assert [r.question for r in others] == ["Which town is home to A?", "Which town is home to B?"]
    assert [r.answer for r in others] == [r.answer for r in FORGET[:2]]
    assert none == NONE


def test_a_file_has_a_point_for_each_field(tiny_model_dir, tmp_path):
    asked, attack = exam(tiny_model_dir()), Paraphrases(file=written(tmp_path))
    variants = attack.variants(asked)
    assert [r.question for r in variants["german"][:2]] == ["Wo wohnt A?", "Wo wohnt B?"]
    assert variants["german"][2:] == [NONE] * 4
    assert variants["formal"][0].question == "Kindly state the residence of A."
    assert variants["formal"][1:] == [NONE] * 5
    assert attack.asked(asked) == [*FORGET[:2], *[NONE] * 4]


def test_without_paraphrases(tiny_model_dir, tmp_path):
    asked = exam(tiny_model_dir(), forget=[Record("Where is C?", "Nowhere.")])
    with pytest.raises(ValueError, match="data must have paraphrased questions of forget rows, got none"):
        Paraphrases().check(asked)
    with pytest.raises(ValueError, match=r"file '.*prompts\.jsonl' must have paraphrased"):
        Paraphrases(file=written(tmp_path)).check(asked)
    with pytest.raises(RecordError, match=r"file: .*no\.jsonl: no such file"):
        Paraphrases(file=tmp_path / "no.jsonl").check(asked)
    Paraphrases().check(exam(tiny_model_dir()))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"german": "Wo?"}, r"prompts\.jsonl:1: expected an object with \"question\""),
        (["question"], "expected an object"),
        ({"question": "Where?", "german": 3}, 'field "german" must be text, got int'),
    ],
)
def test_broken_rows(tmp_path, row, message):
    with pytest.raises(RecordError, match=message):
        read_prompts(written(tmp_path, [row]))
