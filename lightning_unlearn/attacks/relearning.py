"""A few steps of fine-tuning: what was forgotten is not relearned faster than what was never known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from math import inf
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lightning_unlearn.attacks.base import Attack, Measurement, throwaway
from lightning_unlearn.attacks.exam import PROBABILITY, RECALL, Exam, Scores, failed, means
from lightning_unlearn.data.authors.facts import real_authors, world_facts
from lightning_unlearn.data.packing import TokenRow, pack
from lightning_unlearn.data.readers import read_records
from lightning_unlearn.data.records import Record, row_key
from lightning_unlearn.evaluation.run import select_rows
from lightning_unlearn.forward import token_statistics
from lightning_unlearn.models import Lora, add_lora
from lightning_unlearn.parts import device_of
from lightning_unlearn.usage import naming

HELD_OUT = {
    "held_out/rougeL_recall": "ROUGE-L recall, rows not shown",
    "held_out/probability": "Probability, rows not shown",
}


class Relearning(Attack):
    """Fine-tunes a throw-away copy on k rows by AdamW, and measures all forget rows and those that were not shown.

    With rows to forget, the rows that were not shown are judged: that a model learns what it is shown says little. The
    retrained model's curve beside it says how much these rows tell of the others.

    Args:
        rows: what is shown: "forget" rows, "related" rows (the retain rows, or those of `file`) or "unrelated" ones
            (general knowledge, or those of `file`).
        k: how many rows are shown.
        steps: optimiser steps after which knowledge is measured.
        lr: learning rate, constant. A model of billions of weights needs no more than the default; a tiny one does.
        batch_size: rows a step.
        lora: train adapters in float32 on the weights as they are; by default all weights in float32, which takes 16
            bytes a parameter.
        file: source of rows, see `UnlearningRecords`.
        seed: of the order of the rows.

    Raises:
        ValueError: for a number out of range, or a file of rows to forget.
    """

    x_name: ClassVar[str] = "steps"

    def __init__(
        self,
        *,
        rows: Literal["forget", "related", "unrelated"] = "forget",
        k: int = 20,
        steps: Sequence[int] = (2, 5, 10, 20, 50),
        lr: float = 1e-5,
        batch_size: int = 8,
        lora: Lora | None = None,
        file: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        if rows not in ("forget", "related", "unrelated"):
            raise ValueError(f'rows must be "forget", "related" or "unrelated", got {rows!r}')
        if file is not None and rows == "forget":
            raise ValueError(f'rows must be "related" or "unrelated" with a file, got {rows!r} and {str(file)!r}')
        for name, value in (("k", k), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not steps or not all(count >= 1 for count in steps):
            raise ValueError(f"steps must be at least 1 each, and one at least, got {list(steps)}")
        if not 0 < lr < inf:
            raise ValueError(f"lr must be above 0 and finite, got {lr}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.rows = rows
        self.k = k
        self.steps = sorted(set(steps))
        self.lr = lr
        self.batch_size = batch_size
        self.lora = lora
        self.file = file
        self.seed = seed

    @property
    def name(self) -> str:
        """See `Attack`."""
        return f"relearning_{self.rows}"

    @property
    def scores(self) -> dict[str, str]:  # type: ignore[override]
        """See `Attack`."""
        of_all = {RECALL: "ROUGE-L recall, all rows", PROBABILITY: "Probability, all rows"}
        return {**HELD_OUT, **of_all} if self.rows == "forget" else of_all

    def check(self, exam: Exam) -> None:
        """See `Attack`.

        Raises:
            ValueError: if all forget rows would be shown, or there are no rows to show, or one is too long.
        """
        exam.encoder.rows(self.shown(exam))
        if self.rows == "forget" and not any(self._held_out(exam)):
            raise ValueError(f"k must leave forget rows that are not shown, got {self.k} of {len(exam.forget)}")

    def shown(self, exam: Exam) -> list[Record]:
        """Return the rows that the model is fine-tuned on: k of the source, spread over it.

        Raises:
            ValueError: if the data have none, or the file cannot be read.
        """
        if self.file is not None:
            with naming("file"):
                source = read_records(self.file)
        elif self.rows == "unrelated":
            source = [*world_facts(), *real_authors()]
        else:
            role = "forget" if self.rows == "forget" else "retain"
            source = exam.data.records().get(role, [])
        if not source:
            raise ValueError(f"data must have {self.rows} rows to relearn from, got none; a file may hold them")
        return [source[i] for i in select_rows(len(source), self.k)]

    def points(self, model: nn.Module, exam: Exam) -> Iterator[Measurement]:
        """See `Attack`; steps are made again, in the same order, after a stop."""
        yield 0, lambda: self._scores(model, exam)
        copied = self._trainable(model)
        step = fine_tuning(copied, exam.encoder.rows(self.shown(exam)), self.lr, self.batch_size, self.seed)
        done = 0
        for count in self.steps:
            for _ in range(count - done):
                step()
            done = count
            yield count, lambda: self._scores(copied, exam)

    def _held_out(self, exam: Exam) -> list[bool]:
        """Of each forget row whether it is not shown."""
        shown = {row_key(record) for record in self.shown(exam)}
        return [row_key(record) not in shown for record in exam.forget]

    def _scores(self, model: nn.Module, exam: Exam) -> Scores:
        samples = exam.ask(model, exam.forget)
        found = {**means("forget", samples), **failed(samples)}
        if self.rows == "forget":
            found |= means("held_out", list(compress(samples, self._held_out(exam))))
        return found

    def _trainable(self, model: nn.Module) -> nn.Module:
        copied = throwaway(model)
        if self.lora is None:
            return copied.float()
        with isolate_rng():
            torch.manual_seed(self.seed)
            return add_lora(copied, self.lora).eval()


def fine_tuning(
    model: nn.Module, rows: Sequence[TokenRow], lr: float, batch_size: int, seed: int
) -> Callable[[], None]:
    """Return a function that makes one AdamW step on the mean NLL of the labels of the next rows, without dropout.

    Every row is seen once before any is seen again.
    """
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    order = np.random.default_rng(seed)
    queue: list[int] = []

    def step() -> None:
        while len(queue) < min(batch_size, len(rows)):
            queue.extend(order.permutation(len(rows)).tolist())
        chosen = [queue.pop(0) for _ in range(min(batch_size, len(rows)))]
        batch = pack({"rows": [rows[i] for i in chosen]}).to(device_of(model))
        with torch.enable_grad():
            loss = -token_statistics(model, batch, ("log_prob",)).log_prob.mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
