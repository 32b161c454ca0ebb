"""The same questions in other words, or in another language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lightning_unlearn.attacks.exam import Exam
from lightning_unlearn.attacks.prompts import PromptAttack
from lightning_unlearn.data.readers import read_rows
from lightning_unlearn.data.records import Record, RecordError, text_key

Prompts = dict[str, dict[str, str]]  # variant -> key of the question -> what is asked in its place


class Paraphrases(PromptAttack):
    """Asks for each row by its paraphrased question, or by those of a file: other words, other languages.

    Rows without one are left out, of the plain questions too.

    Args:
        file: JSON lines; "question" holds the question as it is, and every other field, by whose name its point goes,
            what is asked in its place. By default the rows' own paraphrases.
    """

    def __init__(self, *, file: str | Path | None = None) -> None:
        self.file = file

    def check(self, exam: Exam) -> None:
        """Find what is asked.

        Raises:
            ValueError: if no row has another question.
        """
        if not self.variants(exam):
            where = "the data" if self.file is None else str(self.file)
            raise ValueError(f"Paraphrases: expected paraphrased questions of forget rows, got none in {where}")

    def asked(self, exam: Exam) -> list[Record]:
        """Return the rows that have another question."""
        prompts = self._prompts(exam)
        return [r for r in exam.forget if any(text_key(r.question) in of for of in prompts.values())]

    def variants(self, exam: Exam) -> Mapping[str, list[Record]]:
        """See `PromptAttack`."""
        found = {
            name: [replace(r, question=of[key]) for r in exam.forget if (key := text_key(r.question)) in of]
            for name, of in self._prompts(exam).items()
        }
        return {name: records for name, records in found.items() if records}

    def _prompts(self, exam: Exam) -> Prompts:
        if self.file is not None:
            return read_prompts(self.file)
        own = {text_key(r.question): r.paraphrased_question for r in exam.forget if r.paraphrased_question}
        return {"paraphrased": own}


def read_prompts(file: str | Path) -> Prompts:
    """Read what is asked in place of each question, by variant.

    Raises:
        RecordError: for a row without "question", or a field that is no text.
    """
    found: Prompts = {}
    for where, row in read_rows(file, name="file"):
        if not isinstance(row, Mapping) or "question" not in row:
            raise RecordError(f'{where}: expected an object with "question" and other ways to ask it')
        for name, text in row.items():
            if not isinstance(text, str) or not text.strip():
                raise RecordError(f'{where}: field "{name}" must be text, got {type(text).__name__}')
            if name != "question":
                found.setdefault(name, {})[text_key(row["question"])] = text
    return found
