"""Rows of one's own: JSON lines, a saved dataset, or a Hugging Face dataset id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.readers import read_records
from lightning_unlearn.data.records import HOLDOUT, Record


class UnlearningRecords(UnlearningDataModule):
    """Offer the roles of one's own rows.

    A source is a file of JSON lines or one JSON array, a folder saved by `datasets`, or a hub id "owner/name",
    "owner/name:config" or "owner/name:config:split"; in Python also a list of rows or `Record`s.

    Args:
        forget: source of the rows to forget.
        retain: source of the rows to keep; none where None.
        holdout: source of rows that no model was trained on, for membership attacks; none where None.
        evaluation: set name -> source of the rows to evaluate, in place of or beside "forget" and "retain".
        question_key: field of the question.
        answer_key: field of the answer.
        options: options of `UnlearningDataModule`.
    """

    def __init__(
        self,
        *,
        forget: str | Path | list,
        retain: str | Path | list | None = None,
        holdout: str | Path | list | None = None,
        evaluation: dict[str, str | Path | list] | None = None,
        question_key: str = "question",
        answer_key: str = "answer",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.forget = forget
        self.retain = retain
        self.holdout = holdout
        self.evaluation = dict(evaluation or {})
        self.question_key = question_key
        self.answer_key = answer_key

    def read_records(self) -> dict[str, list[Record]]:
        """Return the rows to forget and to keep."""
        return self._read({"forget": self.forget} | ({} if self.retain is None else {"retain": self.retain}))

    def read_evaluation_sets(self) -> dict[str, list[Record]]:
        """Return the named evaluation sets, and the rows themselves where a role has none."""
        return {**self.all_records(), **self._read(self.evaluation, "evaluation.")}

    def read_holdout(self) -> list[Record]:
        """Return the rows that no model was trained on."""
        return [] if self.holdout is None else self._read({HOLDOUT: self.holdout})[HOLDOUT]

    def _read(self, sources: Mapping[str, Any], within: str = "") -> dict[str, list[Record]]:
        keys = {"question_key": self.question_key, "answer_key": self.answer_key}
        return {name: read_records(source, name=within + name, **keys) for name, source in sources.items()}
