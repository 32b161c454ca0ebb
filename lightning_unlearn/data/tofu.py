"""TOFU: 200 fictitious authors with 20 questions each (Maini et al. 2024, "A Task of Fictitious Unlearning")."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.readers import JSON_SUFFIXES, read_records
from lightning_unlearn.data.records import HOLDOUT, Record, RecordError, row_key
from lightning_unlearn.data.refusals import read_refusals

RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
ROWS, ROWS_OF_AUTHOR = 4000, 20
STANDARD = {*RETAIN_OF, *RETAIN_OF.values(), "full"}
LEFT_OUT = "left_out"
REFUSALS_FILE = "idontknow.jsonl"  # plain lines, whatever its name says


class TOFU(UnlearningDataModule):
    """Offer the roles and evaluation sets of TOFU.

    Args:
        forget: "forget01", "forget05" or "forget10", or a source of one's own rows (see `UnlearningRecords`).
        retain: "retain99", "retain95" or "retain90", or a source; the one that goes with `forget` where None.
        data: hub id, or a folder with the files of the same names.
        holdout: rows that no model was trained on, for membership attacks: a split or a source, or "left_out", the rows
            of `retain` that `max_retain_rows` leaves out; none where None.
        max_holdout_rows: keep only the first rows of `holdout`.
        max_forget_rows: keep only the first rows of `forget`.
        max_retain_rows: keep only the first rows of `retain`, so that a small model can learn them all.
        question_key: field of the question in a source of one's own.
        answer_key: field of the answer in a source of one's own.
        options: options of `UnlearningDataModule`.

    Raises:
        ValueError: for a limit below 1, no `retain` with a `forget` of one's own, or "left_out" without
            `max_retain_rows`.
    """

    def __init__(
        self,
        *,
        forget: str = "forget10",
        retain: str | None = None,
        data: str | Path = "locuslab/TOFU",
        holdout: str | None = None,
        max_holdout_rows: int | None = None,
        max_forget_rows: int | None = None,
        max_retain_rows: int | None = None,
        question_key: str = "question",
        answer_key: str = "answer",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for name, limit in (
            ("max_forget_rows", max_forget_rows),
            ("max_retain_rows", max_retain_rows),
            ("max_holdout_rows", max_holdout_rows),
        ):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}")
        if retain is None and forget not in RETAIN_OF:
            known = ", ".join(RETAIN_OF)
            raise ValueError(f'retain must be given where forget is none of {known}; got forget="{forget}"')
        if holdout == LEFT_OUT and max_retain_rows is None:
            raise ValueError(f'max_retain_rows must be given with holdout="{LEFT_OUT}", got None')
        self.forget = forget
        self.retain = RETAIN_OF[forget] if retain is None else retain
        self.data = data
        self.holdout = holdout
        self.max_holdout_rows = max_holdout_rows
        self.max_forget_rows = max_forget_rows
        self.max_retain_rows = max_retain_rows
        self.question_key = question_key
        self.answer_key = answer_key

    def read_records(self) -> dict[str, list[Record]]:
        """Return the rows of both splits, within the limits."""
        return {
            "forget": self._read(self.forget, "forget")[: self.max_forget_rows],
            "retain": self._read(self.retain, "retain")[: self.max_retain_rows],
        }

    def read_evaluation_sets(self) -> dict[str, list[Record]]:
        """Return TOFU's four sets; of forget and retain only rows that are in the roles."""
        return {
            "forget": self._perturbed("forget", self.forget, f"{self.forget}_perturbed"),
            "retain": self._perturbed("retain", self.retain, "retain_perturbed"),
            "real_authors": self._read("real_authors_perturbed"),
            "world_facts": self._read("world_facts_perturbed"),
        }

    def read_holdout(self) -> list[Record]:
        """Return the rows that no model was trained on, within the limit."""
        if self.holdout is None:
            return []
        if self.holdout == LEFT_OUT:
            return self._read(self.retain, "retain")[self.max_retain_rows :][: self.max_holdout_rows]
        return self._read(self.holdout, HOLDOUT)[: self.max_holdout_rows]

    def default_refusals(self) -> list[str]:
        """Return the refusals in the folder, else our own."""
        path = Path(self.data) / REFUSALS_FILE
        return read_refusals(path) if path.is_file() else super().default_refusals()

    def _perturbed(self, role: str, given: str, name: str) -> list[Record]:
        """Return the role's rows with paraphrases where TOFU has them; rows of one's own are evaluated as they are."""
        records = self.all_records()[role]
        if _is_own(given):
            return records
        there = {row_key(record) for record in records}
        return [record for record in self._read(name) if row_key(record) in there] or records

    def _read(self, name: str, argument: str = "data") -> list[Record]:
        if _is_own(name):
            return read_records(name, name=argument, question_key=self.question_key, answer_key=self.answer_key)
        folder = Path(self.data)
        if not folder.is_dir():
            return _with_authors(name, read_records(f"{self.data}:{name}", name="data"))
        for suffix in JSON_SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return _with_authors(name, read_records(folder / f"{name}{suffix}"))
        existing = sorted(path.stem for path in folder.iterdir() if path.suffix in JSON_SUFFIXES)
        known = ", ".join(existing) or "none"
        raise RecordError(f'{argument}: {self.data}: unknown split "{name}", existing splits: {known}')


def _is_own(source: str) -> bool:
    if source.removesuffix("_perturbed") in STANDARD:
        return False
    return Path(source).suffix in JSON_SUFFIXES or "/" in source or Path(source).exists()


def _with_authors(name: str, records: list[Record]) -> list[Record]:
    """Name the author of each row: the authors follow each other, the forget splits are the last of them."""
    if not name.startswith(("forget", "retain", "full")):
        return records
    first = ROWS - len(records) if name.startswith("forget") else 0
    return [
        record if record.subject else replace(record, subject=f"TOFU author {(first + i) // ROWS_OF_AUTHOR + 1}")
        for i, record in enumerate(records)
    ]
