"""LUME: three tasks of unlearning, the data of SemEval-2025 task 4 (Ramakrishna et al. 2025, arXiv 2504.02883)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.readers import read_rows, read_subset
from lightning_unlearn.data.records import HOLDOUT, Record, RecordError, parse_row, shown
from lightning_unlearn.data.set_options import LIKELIHOOD_ONLY, SetOptions

SPLITS = ("forget", "retain")
KINDS = {
    "sc": "completion",
    "qa": "knowledge",
}  # how the "id" of a row ends, before a digit, and what its set is called
MEMBERSHIP = {"forget": "member", HOLDOUT: "nonmember"}  # files of the texts for the membership attack
ANSWER = SetOptions(max_new_tokens=256)


class LUME(UnlearningDataModule):
    """Offer the roles and evaluation sets of LUME: invented stories, invented biographies, and real ones.

    An answer follows its question with nothing in between, as in the authors' code (`template` "{question}"). There is
    an evaluation set for each split, task and kind of row: "forget_task1_completion", ..., "retain_task3_knowledge".

    Args:
        data: hub id (access is given on request), or a folder with `data/forget_train-*.parquet` and its like, or with
            `train/forget.jsonl`.
        fold: "train" or "validation".
        membership: folder with `member.jsonl` and `nonmember.jsonl`, texts for the membership attack: the evaluation
            sets "forget" and "holdout", scored by likelihood alone; none where None.
        template: as for `UnlearningDataModule`.
        options: options of `UnlearningDataModule`.

    Raises:
        ValueError: for another fold.
    """

    def __init__(
        self,
        *,
        data: str | Path = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public",
        fold: str = "train",
        membership: str | Path | None = None,
        template: str = "{question}",
        **options: Any,
    ) -> None:
        super().__init__(template=template, **options)
        if fold not in ("train", "validation"):
            raise ValueError(f'fold must be "train" or "validation", got "{fold}"')
        self.data = data
        self.fold = fold
        self.membership = membership

    def read_records(self) -> dict[str, list[Record]]:
        """Return the rows of both splits, of all tasks."""
        return {split: [_record(row, place) for place, row in self._read(split)] for split in SPLITS}

    def read_evaluation_sets(self) -> dict[str, list[Record]]:
        """Return the rows of each split by task and kind, and the texts for the membership attack."""
        sets: dict[str, list[Record]] = {}
        for split in SPLITS:
            for place, row in self._read(split):
                record = _record(row, place)
                sets.setdefault(f"{split}_{_task(row, place)}_{_kind(row, place)}", []).append(record)
        members = self._texts("forget")
        return dict(sorted(sets.items())) | ({"forget": members} if members else {})

    def read_holdout(self) -> list[Record]:
        """Return the texts of the membership attack that no model has read."""
        return self._texts(HOLDOUT)

    def set_options(self) -> dict[str, SetOptions]:
        """Return how each set is asked: greedy, 256 tokens."""
        return {name: LIKELIHOOD_ONLY if name in MEMBERSHIP else ANSWER for name in self.evaluation_sets()}

    def _read(self, split: str) -> list[tuple[str, Any]]:
        if (Path(self.data) / self.fold).is_dir():
            return read_subset(self.data, self.fold, split)
        return read_subset(self.data, "", f"{split}_{self.fold}")

    def _texts(self, name: str) -> list[Record]:
        if self.membership is None:
            return []
        rows = read_rows(Path(self.membership) / f"{MEMBERSHIP[name]}.jsonl", name="membership")
        return [_text(row, place) for place, row in rows]


def _record(row: Any, place: str) -> Record:
    return parse_row(row, place, question_key="input", answer_key="output")


def _text(row: Any, place: str) -> Record:
    return parse_row({"text": row["document"]} if isinstance(row, Mapping) and "document" in row else row, place)


def _task(row: Mapping[str, Any], place: str) -> str:
    task = row.get("task")
    if not isinstance(task, str) or not task:
        raise RecordError(f'{place}: field "task" must name the task, got {shown(task)}')
    return task.lower()


def _kind(row: Mapping[str, Any], place: str) -> str:
    found = re.search(rf"({'|'.join(KINDS)})\d$", str(row.get("id")))
    if found is None:
        raise RecordError(f'{place}: field "id" must end with "sc" or "qa" and a digit, got {shown(row.get("id"))}')
    return KINDS[found[1]]
