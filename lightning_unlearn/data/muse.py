"""MUSE: news and books that a model has read, to be forgotten whole (Shi et al. 2024, arXiv 2407.06460)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.readers import read_subset
from lightning_unlearn.data.records import HOLDOUT, Record, parse_row
from lightning_unlearn.data.set_options import LIKELIHOOD_ONLY, SetOptions

PARTS = 4  # of the forget set, for scalability and for sustainability
TEXTS = ("forget", "retain")  # of the subset "privleak", which also has the holdout set
VERBATIM = SetOptions(max_new_tokens=128, clip=True)
KNOWLEDGE = SetOptions(max_new_tokens=32, stop=("\n\n", "\nQuestion", "Question:"))
SETS = {"forget_verbatim": VERBATIM, "forget_knowledge": KNOWLEDGE, "retain_knowledge": KNOWLEDGE}


class MUSE(UnlearningDataModule):
    """Offer the roles and evaluation sets of MUSE.

    Texts of "raw" are trained on, cut into rows of `max_length` tokens. The evaluation sets "forget", "retain" and
    "holdout" are texts for membership attacks, scored by likelihood alone; "forget_verbatim" are texts to be continued,
    "forget_knowledge" and "retain_knowledge" questions, asked after the examples that MUSE gives.

    Args:
        data: hub id ("muse-bench/MUSE-News", "muse-bench/MUSE-Books"), or a folder with its subsets.
        size: forget the first so many of four parts, each part of the next (scalability); all of "raw" where None.
        sustainability: forget one of four parts, which share no text, at each request: the one that `request` names.
        request: number of the request, from 1.
        max_length: most tokens of a row.
        options: options of `UnlearningDataModule`.

    Raises:
        ValueError: for a part that does not exist, or both kinds of parts.
    """

    def __init__(
        self,
        *,
        data: str | Path = "muse-bench/MUSE-News",
        size: int | None = None,
        sustainability: bool = False,
        request: int | None = None,
        max_length: int = 2048,
        **options: Any,
    ) -> None:
        super().__init__(request=None if sustainability else request, max_length=max_length, **options)
        if sustainability:
            self.request = 1 if request is None else request
            if size is not None or self.request_rows is not None:
                raise ValueError("sustainability has parts of its own, got size or request_rows beside it")
        for name, part in (("size", size), ("request", self.request if sustainability else None)):
            if part is not None and not 1 <= part <= PARTS:
                raise ValueError(f"{name} must be in [1, {PARTS}], got {part}")
        self.data = data
        self.size = size
        self.sustainability = sustainability

    def read_records(self) -> dict[str, list[Record]]:
        """Return the texts to forget, and "retain1"."""
        subset, split = "raw", "forget"
        if self.sustainability:
            subset, split = "sust", f"forget_{self.request}"
        elif self.size is not None:
            subset, split = "scal", f"forget_{self.size}"
        return {"forget": self._texts(subset, split), "retain": self._texts("raw", "retain1")}

    def read_evaluation_sets(self) -> dict[str, list[Record]]:
        """Return MUSE's sets of texts that models have read, and of questions about them."""
        return {
            **{name: self._texts("privleak", name) for name in TEXTS},
            "forget_verbatim": [_verbatim(row, place) for place, row in self._read("verbmem", "forget")],
            "forget_knowledge": self._questions("forget_qa"),
            "retain_knowledge": self._questions("retain_qa"),
        }

    def read_holdout(self) -> list[Record]:
        """Return texts that no model has read."""
        return self._texts("privleak", HOLDOUT)

    def set_options(self) -> dict[str, SetOptions]:
        """Return how each set is asked: greedy, 128 tokens of verbatim text, 32 of an answer."""
        return {**dict.fromkeys((*TEXTS, HOLDOUT), LIKELIHOOD_ONLY), **SETS}

    def _read(self, subset: str, split: str) -> list[tuple[str, Any]]:
        return read_subset(self.data, subset, split)

    def _texts(self, subset: str, split: str) -> list[Record]:
        rows = self._read(subset, split)
        return [parse_row({"text": row} if isinstance(row, str) else row, place) for place, row in rows]

    def _questions(self, split: str) -> list[Record]:
        examples = [parse_row(row, place) for place, row in self._read("knowmem", f"{split}_icl")]
        turns = tuple(turn for example in examples for turn in _turns(example))
        return [replace(parse_row(row, place), messages=turns) for place, row in self._read("knowmem", split)]


def _verbatim(row: Any, place: str) -> Record:
    """A text of which the beginning is given."""
    record = parse_row(row, place, question_key="prompt", answer_key="gt")
    return replace(record, question="", prefill=record.question)


def _turns(example: Record) -> tuple[dict[str, str], ...]:
    """An example as turns before a question; MUSE leaves a line empty after its answer."""
    return {"role": "user", "content": example.question}, {"role": "assistant", "content": example.answer + "\n"}
