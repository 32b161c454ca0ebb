from __future__ import annotations

import pytest

from lightning_unlearn.attacks.in_context_hints import InContextHints, with_beginning, with_examples
from lightning_unlearn.data.records import Record
from tests.attacks.exams import FORGET, exam


def test_examples_are_other_rows_those_of_the_subject_first():
    rows = [Record(f"Q{i}?", f"A{i}.", subject=subject) for i, subject in enumerate("ABAB")]
    asked = with_examples(rows[3], rows, 2)
    said = [(turn["role"], turn["content"]) for turn in asked.messages]
    assert said == [("user", "Q1?"), ("assistant", "A1."), ("user", "Q0?"), ("assistant", "A0.")]
    assert (asked.question, asked.answer) == ("Q3?", "A3.")


def test_words_that_are_given_are_not_scored():
    asked = with_beginning(FORGET[0], 3)
    assert asked.question == 'Where does A live? The answer begins with "A lives in".'
    assert asked.answer == "the town of Bern."


def test_variants(tiny_model_dir):
    short = Record("Who?", "One two three.")
    asked = exam(tiny_model_dir(), forget=[*FORGET, short])
    variants = InContextHints(examples=[1, 2], words=[2, 4]).variants(asked)
    assert {name: sum(isinstance(row, Record) for row in rows) for name, rows in variants.items()} == {
        "1 example": 7,
        "2 examples": 7,
        "first 2 words": 7,
        "first 4 words": 6,
    }
    assert variants["first 4 words"][6] == "its answer has no more than 4 words"
    assert all(len(row.messages) == 4 for row in variants["2 examples"])


def test_mistakes(tiny_model_dir):
    with pytest.raises(ValueError, match=r"examples must be at least 1 each, got \[0\]"):
        InContextHints(examples=[0])
    with pytest.raises(ValueError, match=r"words must be at least 1 each, got \[0\]"):
        InContextHints(words=[0])
    with pytest.raises(ValueError, match="examples must be fewer than the 6 forget rows"):
        InContextHints(examples=[6]).check(exam(tiny_model_dir()))
    with pytest.raises(ValueError, match=r"examples and words must hold a number between them, got \[\] and \[\]"):
        InContextHints(examples=[], words=[])
    with pytest.raises(ValueError, match=r"words must be fewer than the longest answer's, 7, got \[7\]"):
        InContextHints(examples=[], words=[7]).check(exam(tiny_model_dir()))
    InContextHints(examples=[], words=[6]).check(exam(tiny_model_dir()))
    InContextHints(examples=[5]).check(exam(tiny_model_dir()))
