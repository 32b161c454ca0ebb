from __future__ import annotations

import pytest

from lightning_unlearn.attacks.prefixes import TEMPLATES, Prefixes
from tests.attacks.exams import FORGET, exam


def test_every_template_holds_the_question(tiny_model_dir):
    variants = Prefixes().variants(exam(tiny_model_dir()))
    assert list(variants) == list(TEMPLATES)
    for records in variants.values():
        for asked, plain in zip(records, FORGET, strict=True):
            assert plain.question in asked.question
            assert len(asked.question) > len(plain.question) + 20
            assert asked.answer == plain.answer


def test_templates_of_a_file(tiny_model_dir, tmp_path):
    (tmp_path / "mine.txt").write_text("Please: {question}\n\n{question} Now!\n")
    variants = Prefixes(file=tmp_path / "mine.txt").variants(exam(tiny_model_dir()))
    assert {name: records[0].question for name, records in variants.items()} == {
        "line 1": "Please: Where does A live?",
        "line 2": "Where does A live? Now!",
    }


def test_a_template_without_the_question(tmp_path):
    (tmp_path / "mine.txt").write_text("{question}?\nPlease.\n")
    with pytest.raises(ValueError, match=r'file must have "\{question\}" in every line, got line 2 without it'):
        Prefixes(file=tmp_path / "mine.txt")
    with pytest.raises(ValueError, match=r"file: .*no\.txt: no such file"):
        Prefixes(file=tmp_path / "no.txt")
