"""What every attack asks of a model: the rows to be forgotten, and scores of its answers to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from hashlib import blake2b
from statistics import fmean, stdev

from torch import nn

from lightning_unlearn.attacks.recovery import ERROR
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation.log import Log, Sample
from lightning_unlearn.evaluation.run import evaluate, select_rows

Scores = dict[str, float]
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

    Raises:
        ValueError: for a number below 1.
    """

    data: UnlearningDataModule
    max_rows: int | None = 100
    max_new_tokens: int = 200
    batch_size: int = 32
    tokens_per_batch: int = 8192

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
        return self.rows("forget")

    def rows(self, name: str) -> list[Record]:
        """Return the rows of an evaluation set, at most `max_rows`.

        Raises:
            ValueError: if there is no such set.
        """
        sets = self.data.evaluation_sets()
        if not sets.get(name):
            raise ValueError(f"data must have rows of the evaluation set {name!r}, got sets {list(sets)}")
        return [sets[name][i] for i in select_rows(len(sets[name]), self.max_rows)]

    def ask(self, model: nn.Module, records: Sequence[Record]) -> list[Sample]:
        """Score a model's answers to questions, and how probable it finds the true ones; wrong ones are not read."""
        plain = [replace(record, paraphrased_answer="", perturbed_answers=()) for record in records]
        log = evaluate(
            model,
            self.encoder,
            {"forget": plain},
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            tokens_per_batch=self.tokens_per_batch,
            sentence_encoder=None,
            entailment=None,
            progress=False,
        )
        return log["forget"]

    def scores(self, model: nn.Module, records: Sequence[Record]) -> Scores:
        """Mean ROUGE-L recall and probability of the answers to questions, with their errors."""
        return means({"forget": self.ask(model, records)})

    @cached_property
    def digest(self) -> str:
        """Hash what scores depend on beside the model and the attack: the rows as they are asked, and the limits."""
        sets = self.data.evaluation_sets()
        texts = [[name, *astuple(replace(r, source=""))] for name in ("forget", "retain") for r in sets.get(name, ())]
        limits = [self.max_rows, self.max_new_tokens]
        about = [limits, self.data.fingerprint(), self.encoder.prompt(self.forget[0]), texts]
        return blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()


def means(log: Log) -> Scores:
    """Mean ROUGE-L recall and probability of each set, "<set>/<metric>", with their errors."""
    found: Scores = {}
    for name, samples in log.items():
        for metric in METRICS:
            found |= mean_score(f"{name}/{metric}", [s[metric] for s in samples if metric in s])
    return found


def mean_score(score: str, values: Sequence[float]) -> Scores:
    """The mean over rows, and under "<score>_error" its standard error: sd / sqrt(n), 0 for a single row.

    Example:
        >>> mean_score("k", [0.0, 1.0])
        {'k': 0.5, 'k_error': 0.5}
    """
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {score: fmean(values), f"{score}{ERROR}": error}
