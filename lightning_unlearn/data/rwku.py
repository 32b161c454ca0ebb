"""RWKU: well-known people, forgotten by name (Jin et al. 2024, arXiv 2406.10890)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.readers import read_records, read_subset
from lightning_unlearn.data.records import Record, parse_row, text_key
from lightning_unlearn.data.set_options import LIKELIHOOD_ONLY, SetOptions
from lightning_unlearn.data.subjects import rows_about

PROBE = SetOptions(max_new_tokens=30, stop=("\n",))
FLUENCY = SetOptions(max_new_tokens=256)
PREFILL = "Answer: "
FILL_IN = "Please complete the blank in the following question.\nQuestion: {query}\n"
QUESTION = "Please briefly answer the following question.\nQuestion: {query}\n"
IN_CONTEXT = "Please briefly answer the following question.\n{query}\n"
INSTRUCTION = "Instruction: {query}\n"
OTHERWISE_ASKED = {  # kinds of adversarial questions that are not asked like other questions
    "affirmative suffix": {"template": QUESTION.rstrip(), "prefill": ""},
    "incontext learning": {"template": IN_CONTEXT},
}
FILES = {  # names in a folder, where they differ from those of the hub's subsets
    "mia_forget": "forget_mia",
    "mia_retain": "retain_mia",
    "utility_fluency": "fluency",
    "train_positive_llama3": "positive",
    "train_positive_phi3": "positive_phi",
    "train_original_passage": "passage",
}


class RWKU(UnlearningDataModule):
    """Offer the roles and evaluation sets of RWKU for some of its 200 people.

    The benchmark gives names alone; what is trained on are texts about the people. Evaluation sets: "forget_fill_in"
    and "forget_question" (levels 1 and 2), "forget_<kind>" for each of the nine kinds of adversarial questions (level
    3), "neighbor_fill_in" and "neighbor_question"; "forget" and "retain" are texts for membership attacks, scored by
    likelihood alone; "fluency" are instructions to follow.

    Args:
        subjects: names of the people, as RWKU has them, whatever their case.
        data: hub id, or a folder with the files of one person or of all (`Target/1_Stephen_King`, `All`).
        corpus: subset with the texts to forget: "train_positive_llama3" or "train_positive_phi3", written by these
            models, or "train_original_passage", from Wikipedia.
        retain: source of rows to keep (see `UnlearningRecords`); none where None, as in the paper.
        fluency: whether "fluency" is one of the evaluation sets.
        options: options of `UnlearningDataModule`.

    Raises:
        ValueError: without subjects.
    """

    def __init__(
        self,
        *,
        subjects: list[str],
        data: str | Path = "jinzhuoran/RWKU",
        corpus: str = "train_positive_llama3",
        retain: str | Path | list | None = None,
        fluency: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not subjects:
            raise ValueError("subjects must name one at least, got none")
        self.subjects = subjects
        self.data = data
        self.corpus = corpus
        self.retain = retain
        self.fluency = fluency

    def read_records(self) -> dict[str, list[Record]]:
        """Return the texts about the people, and the rows to keep.

        Raises:
            RecordError: for a name that no text is about.
        """
        texts = [parse_row(row, place) for place, row in self._read(self.corpus)]
        kept = {} if self.retain is None else {"retain": read_records(self.retain, name="retain")}
        return {"forget": rows_about(self.subjects, texts, "subjects")} | kept

    def read_evaluation_sets(self) -> dict[str, list[Record]]:
        """Return the probes of each kind, and the texts for membership attacks, about the people."""
        fill_in, question = partial(_probe, template=FILL_IN), partial(_probe, template=QUESTION)
        sets = {
            "forget_fill_in": self._about("forget_level1", fill_in),
            "forget_question": self._about("forget_level2", question),
            **self._adversarial(),
            "neighbor_fill_in": self._about("neighbor_level1", fill_in),
            "neighbor_question": self._about("neighbor_level2", question),
            "forget": self._about("mia_forget", parse_row),
            "retain": self._about("mia_retain", parse_row),
        }
        if self.fluency:
            sets["fluency"] = self._about("utility_fluency", _instruction)
        return {name: records for name, records in sets.items() if records}

    def set_options(self) -> dict[str, SetOptions]:
        """Return how each set is asked: greedy, 30 tokens and one line of an answer."""
        own = {"forget": LIKELIHOOD_ONLY, "retain": LIKELIHOOD_ONLY, "fluency": FLUENCY}
        return {name: own.get(name, PROBE) for name in self.evaluation_sets()}

    def _read(self, subset: str) -> list[tuple[str, Any]]:
        name = FILES.get(subset, subset) if Path(self.data).is_dir() else subset
        return read_subset(self.data, name, "train" if subset.startswith("train_") else "test")

    def _about(self, subset: str, make: Callable[[Any, str], Record]) -> list[Record]:
        return [record for place, row in self._read(subset) if self._wants(record := make(row, place))]

    def _adversarial(self) -> dict[str, list[Record]]:
        """Level 3, a set for each kind of question."""
        sets: dict[str, list[Record]] = {}
        for place, row in self._read("forget_level3"):
            record = _adversarial_probe(row, place)
            if self._wants(record):
                sets.setdefault(f"forget_{_kind(row).replace(' ', '_')}", []).append(record)
        return sets

    def _wants(self, record: Record) -> bool:
        """Whether a row is about one of the people, or about nobody, and so belongs to all."""
        return not record.subject or text_key(record.subject) in map(text_key, self.subjects)


def _probe(row: Any, place: str, *, template: str, prefill: str = PREFILL) -> Record:
    """A question whose answer follows "Answer:", where a chat template would let the assistant speak."""
    record = parse_row(row, place, question_key="query")
    return replace(record, question=template.replace("{query}", record.question), prefill=prefill)


def _adversarial_probe(row: Any, place: str) -> Record:
    return _probe(row, place, **{"template": QUESTION, **OTHERWISE_ASKED.get(_kind(row), {})})


def _kind(row: Any) -> str:
    return str(row.get("type") or "other") if isinstance(row, Mapping) else ""


def _instruction(row: Any, place: str) -> Record:
    record = parse_row(row, place, question_key="instruction", answer_key="output")
    return replace(record, question=INSTRUCTION.replace("{query}", record.question))
