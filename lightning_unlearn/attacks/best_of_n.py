"""Sampling in place of greedy decoding: one good answer among many is a leak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from math import comb
from typing import ClassVar

from torch import nn

from lightning_unlearn.attacks.base import Attack, Measurement
from lightning_unlearn.attacks.exam import RECALL, Exam, mean_score
from lightning_unlearn.data.records import Record
from lightning_unlearn.evaluation.shares import share_of
from lightning_unlearn.generation import generate
from lightning_unlearn.metrics.rouge import rouge_recall


class BestOfN(Attack):
    """Draws n answers to each question and takes the best by ROUGE-L recall, as who knows what they look for would.

    The score at k is the mean over rows of the expected best of k answers, see `expected_best`; point 0 is greedy.

    Args:
        n: answers a question.
        temperature: of the draws.
        seed: of the draws, which follow from it and the prompt.

    Raises:
        ValueError: for fewer than 2 answers, or a temperature that is not above 0.
    """

    x_name: ClassVar[str] = "samples"
    scores: ClassVar[dict[str, str]] = {RECALL: "ROUGE-L recall of the best"}

    def __init__(self, *, n: int = 8, temperature: float = 1.0, seed: int = 0) -> None:
        if n < 2:
            raise ValueError(f"n must be at least 2, got {n}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.n = n
        self.temperature = temperature
        self.seed = seed

    def points(self, model: nn.Module, exam: Exam) -> Iterator[Measurement]:
        """See `Attack`."""
        drawn = cache(lambda: self._recalls(model, exam))  # once for all points
        yield 0, lambda: mean_score(RECALL, [row[0] for row in self._ask(model, exam, draws=1, temperature=0.0)])
        for k in [2**power for power in range(self.n.bit_length()) if 2**power < self.n] + [self.n]:
            yield k, lambda k=k: mean_score(RECALL, [expected_best(row, k) for row in drawn()])

    def _recalls(self, model: nn.Module, exam: Exam) -> list[list[float]]:
        return self._ask(model, exam, draws=self.n, temperature=self.temperature)

    def _ask(self, model: nn.Module, exam: Exam, *, draws: int, temperature: float) -> list[list[float]]:
        """ROUGE-L recall of every answer to every row."""

        def recalls(mine: Sequence[Record]) -> list[list[float]]:
            of_draws = [self._said(model, exam, mine, temperature, draw) for draw in range(draws)]
            return [
                [rouge_recall(said[at], record.answer).rougeL for said in of_draws] for at, record in enumerate(mine)
            ]

        return share_of(model).deal(exam.forget, recalls)

    def _said(self, model: nn.Module, exam: Exam, rows: Sequence[Record], temperature: float, draw: int) -> list[str]:
        encoder = exam.encoder
        made = generate(
            model,
            encoder.tokenizer,
            [encoder.prompt(record) for record in rows],
            max_new_tokens=exam.max_new_tokens,
            batch_size=exam.batch_size,
            temperature=temperature,
            seed=self.seed * 1_000_003 + draw,
            stop_ids=[encoder.end_id],
        )
        return [encoder.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in made]


def expected_best(values: Sequence[float], k: int) -> float:
    """Mean of the largest of k values over all choices of k of the n: sum_i C(i - 1, k - 1) v_(i) / C(n, k).

    v_(i) is the i-th smallest. It has no bias for the expected best of k draws, and less variance than taking the
    first k (Chen et al. 2021, the estimator of pass@k, for values other than 0 and 1).

    Example:
        >>> expected_best([0.0, 1.0, 0.5], 2)  # the pairs' best are 1, 0.5 and 1
        0.8333333333333334
    """
    ordered = sorted(values)
    return sum(comb(i, k - 1) * value for i, value in enumerate(ordered)) / comb(len(ordered), k)
