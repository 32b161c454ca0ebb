"""Real people, forgotten by name: the rows of others, their neighbours, are kept ("A Closer Look", ICLR 2025)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.readers import read_records
from lightning_unlearn.data.records import HOLDOUT, Record, RecordError, text_key
from lightning_unlearn.data.subjects import rows_about


class RealWorld(UnlearningDataModule):
    """Offer the roles of rows about real people, of whom some are to be forgotten.

    What a model answers about them before unlearning serves as rows: 20 people with 20 questions each in the paper.
    All of these a model has met before, of people who are left out too, so that membership attacks need rows of their
    own: say, about people who became known after the model was trained, or who do not exist.

    Args:
        rows: source of rows with a field "subject", the person (see `UnlearningRecords` for sources).
        people: names of those to forget, as "subject" has them, whatever their case.
        neighbours: names of those to keep; all others of `rows` where None.
        holdout: source of rows that no model was trained on, for membership attacks; none where None.
        question_key: field of the question.
        answer_key: field of the answer.
        options: options of `UnlearningDataModule`.

    Raises:
        ValueError: without people, or for one to forget and to keep.
    """

    def __init__(
        self,
        *,
        rows: str | Path | list,
        people: list[str],
        neighbours: list[str] | None = None,
        holdout: str | Path | list | None = None,
        question_key: str = "question",
        answer_key: str = "answer",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not people:
            raise ValueError("people must name one at least, got none")
        both = sorted({text_key(name) for name in people} & {text_key(name) for name in neighbours or ()})
        if both:
            raise ValueError(f"neighbours must be others than people, got {both} in both")
        self.source = rows
        self.people = people
        self.neighbours = neighbours
        self.holdout = holdout
        self.question_key = question_key
        self.answer_key = answer_key

    def read_records(self) -> dict[str, list[Record]]:
        """Return the rows of the people, and of their neighbours.

        Raises:
            RecordError: for a row without subject, or a name that no row has.
        """
        records = self._read(self.source, "rows")
        unnamed = [record.source for record in records if not record.subject]
        if unnamed:
            raise RecordError(f'{unnamed[0]}: field "subject" must name the person, got none')
        gone = rows_about(self.people, records, "people")
        forgotten = {text_key(name) for name in self.people}
        if self.neighbours is None:
            kept = [record for record in records if text_key(record.subject) not in forgotten]
        else:
            kept = rows_about(self.neighbours, records, "neighbours")
        return {"forget": gone} | ({"retain": kept} if kept else {})

    def read_evaluation_sets(self) -> dict[str, list[Record]]:
        """Return the same rows."""
        return dict(self.all_records())

    def read_holdout(self) -> list[Record]:
        """Return the rows that no model was trained on."""
        return [] if self.holdout is None else self._read(self.holdout, HOLDOUT)

    def _read(self, source: str | Path | list, name: str) -> list[Record]:
        return read_records(source, name=name, question_key=self.question_key, answer_key=self.answer_key)
