"""The same questions in other words, or in another language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_unlearn.attacks.exam import Asked, Exam
from lightning_unlearn.attacks.prompts import PromptAttack
from lightning_unlearn.data.readers import read_rows
from lightning_unlearn.data.records import Record, RecordError, text_key
from lightning_unlearn.usage import naming

NONE = "there is no other way to ask it"
Prompts = dict[str, dict[str, str]]  # variant -> key of the question -> what is asked in its place


class Paraphrases(PromptAttack):
    """Asks for each row by its paraphrased question, or by those of a file: other words, other languages.

    Rows without one are left out, of the plain questions too, and named.

    Args:
        file: JSON lines; "question" holds the question as it is, and every other field, by whose name its point goes,
            what is asked in its place. By default the rows' own paraphrases.
    """

    def __init__(self, *, file: str | Path | None = None) -> None:
        self.file = file

    def check(self, exam: Exam) -> None:
        """Find what is asked.

        Raises:
            ValueError: if no row has another question, or the file cannot be read.
        """
        if not any(isinstance(row, Record) for row in self.asked(exam)):
            where = "data" if self.file is None else f"file {str(self.file)!r}"
            raise ValueError(f"{where} must have paraphrased questions of forget rows, got none")

    def asked(self, exam: Exam) -> Sequence[Asked]:
        """Return the rows that have another question."""
        other = {key for of in self._prompts(exam).values() for key in of}
        return [r if text_key(r.question) in other else NONE for r in exam.forget]

    def variants(self, exam: Exam) -> Mapping[str, Sequence[Asked]]:
        """See `PromptAttack`."""
        return {
            name: [replace(r, question=of[key]) if (key := text_key(r.question)) in of else NONE for r in exam.forget]
            for name, of in self._prompts(exam).items()
        }

    def _prompts(self, exam: Exam) -> Prompts:
        if self.file is not None:
            with naming("file"):
                return read_prompts(self.file)
        own = {text_key(r.question): r.paraphrased_question for r in exam.forget if r.paraphrased_question}
        return {"paraphrased": own}


def read_prompts(file: str | Path) -> Prompts:
    """Read what is asked in place of each question, by variant.

    Raises:
        RecordError: for a row without "question", or a field that is no text.
    """
    found: Prompts = {}
    for where, row in read_rows(file):
        if not isinstance(row, Mapping) or "question" not in row:
            raise RecordError(f'{where}: expected an object with "question" and other ways to ask it')
        for name, text in row.items():
            if not isinstance(text, str) or not text.strip():
                raise RecordError(f'{where}: field "{name}" must be text, got {type(text).__name__}')
            if name != "question":
                found.setdefault(name, {})[text_key(row["question"])] = text
    return found
