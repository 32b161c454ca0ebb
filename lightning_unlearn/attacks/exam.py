"""What every attack asks of a model: the rows to be forgotten, and scores of its answers to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from hashlib import blake2b
from statistics import fmean, stdev
from typing import Any

from torch import nn

from lightning_unlearn.attacks.recovery import ERROR
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation.log import Sample
from lightning_unlearn.evaluation.run import evaluate, select_rows

Scores = dict[str, Any]  # score -> value; and under `FAILED` the rows that it leaves out, where there are any
Asked = Record | str  # a row as it is asked, or why it cannot be
FAILED = "failed"
METRICS = ("rougeL_recall", "probability")
RECALL, PROBABILITY = (f"forget/{metric}" for metric in METRICS)


@dataclass(frozen=True)
class Exam:
    """Rows, and how answers to them are scored.

    Attributes:
        data: rows and encoder, after `setup`.
        max_rows: most rows of a set, spread over it; None for all.
        max_new_tokens: most tokens of a generated answer.
        batch_size: prompts in a batch of generation.
        tokens_per_batch: most tokens in a batch of likelihoods.
        layers: how many decoder layers the model has, None where that is not known.

    Raises:
        ValueError: for a number below 1.
    """

    data: UnlearningDataModule
    max_rows: int | None = 100
    max_new_tokens: int = 200
    batch_size: int = 32
    tokens_per_batch: int = 8192
    layers: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_new_tokens", "batch_size", "tokens_per_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def encoder(self) -> Encoder:
        """Turns records into tokens."""
        if self.data.encoder is None:
            raise ValueError("data must be set up before it is asked for rows")
        return self.data.encoder

    @cached_property
    def forget(self) -> list[Record]:
        """The evaluated rows that are to be forgotten."""
        return list(self.rows("forget").values())

    def rows(self, name: str) -> dict[int, Record]:
        """Return the rows of an evaluation set, at most `max_rows`, by their number within it.

        Raises:
            ValueError: if there is no such set.
        """
        sets = self.data.evaluation_sets()
        if not sets.get(name):
            raise ValueError(f"data must have rows of the evaluation set {name!r}, got sets {list(sets)}")
        return {i: sets[name][i] for i in select_rows(len(sets[name]), self.max_rows)}

    def ask(self, model: nn.Module, rows: Sequence[Asked], *, temperature: float = 0.0, seed: int = 0) -> list[Sample]:
        """Score a model's answers to questions, and how probable it finds the true ones; wrong ones are not read.

        Args:
            model: who is asked.
            rows: the forget rows in their order, each as it is asked, or why it cannot be.
            temperature: 0 for greedy decoding.
            seed: of the draws.

        Returns:
            A sample for each row; of one that cannot be asked, why it "failed".

        Raises:
            ValueError: for more or fewer rows.
        """
        numbers = list(self.rows("forget"))
        if len(rows) != len(numbers):
            raise ValueError(f"rows must be as many as the forget rows, {len(numbers)}, got {len(rows)}")
        asked = [replace(r, paraphrased_answer="", perturbed_answers=()) for r in rows if isinstance(r, Record)]
        log = evaluate(
            model,
            self.encoder,
            {"forget": asked},
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            temperature=temperature,
            seed=seed,
            tokens_per_batch=self.tokens_per_batch,
            sentence_encoder=None,
            entailment=None,
            progress=False,
        )
        answered = iter(log["forget"])
        found = [{FAILED: row} if isinstance(row, str) else next(answered) for row in rows]
        return [{**sample, "set": "forget", "index": i} for i, sample in zip(numbers, found, strict=True)]

    def scores(self, model: nn.Module, rows: Sequence[Asked]) -> Scores:
        """Mean ROUGE-L recall and probability of the answers to questions, with their errors, see `ask`."""
        samples = self.ask(model, rows)
        return {**means("forget", samples), **failed(samples)}

    @cached_property
    def digest(self) -> str:
        """Hash what scores depend on beside the model and the attack: the rows as they are asked, and the limits."""
        sets = self.data.evaluation_sets()
        texts = [[name, *astuple(replace(r, source=""))] for name in ("forget", "retain") for r in sets.get(name, ())]
        limits = [self.max_rows, self.max_new_tokens]
        about = [limits, self.data.fingerprint(), self.encoder.prompt(self.forget[0]), texts]
        return blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()


def means(name: str, samples: Sequence[Sample]) -> Scores:
    """Mean ROUGE-L recall and probability of the samples that have them, "<name>/<metric>", with their errors."""
    found: Scores = {}
    for metric in METRICS:
        found |= mean_score(f"{name}/{metric}", [sample[metric] for sample in samples if metric in sample])
    return found


def mean_score(score: str, values: Sequence[float]) -> Scores:
    """The mean over rows, and under "<score>_error" its standard error: sd / sqrt(n), 0 for a single row.

    Example:
        >>> mean_score("k", [0.0, 1.0]), mean_score("k", [])
        ({'k': 0.5, 'k_error': 0.5}, {})
    """
    if not values:
        return {}
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {score: fmean(values), f"{score}{ERROR}": error}


def failed(samples: Sequence[Sample]) -> Scores:
    """Name the rows that scores leave out, and why; nothing where there are none.

    Example:
        >>> failed([{"set": "forget", "index": 3, "failed": "too long"}, {"set": "forget", "index": 5}])
        {'failed': [{'set': 'forget', 'index': 3, 'why': 'too long'}]}
    """
    rows = [{"set": s["set"], "index": s["index"], "why": s[FAILED]} for s in samples if FAILED in s]
    return {FAILED: rows} if rows else {}
