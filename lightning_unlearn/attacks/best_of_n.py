"""Sampling in place of greedy decoding: one good answer among many is a leak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from math import comb, inf
from typing import ClassVar

from torch import nn

from lightning_unlearn.attacks.base import Attack, Measurement
from lightning_unlearn.attacks.exam import FAILED, RECALL, Exam, Scores, failed, mean_score
from lightning_unlearn.evaluation.log import Sample


class BestOfN(Attack):
    """Draws n answers to each question and takes the best by ROUGE-L recall, as who knows what they look for would.

    The score at k is the mean over rows of the expected best of k answers, see `expected_best`; point 0 is greedy. A
    row that fails in one draw is left out, and named.

    Args:
        n: answers a question.
        temperature: of the draws.
        seed: of the draws, which follow from it and the prompt.

    Raises:
        ValueError: for fewer than 2 answers, or a temperature that is not above 0 and finite.
    """

    x_name: ClassVar[str] = "samples"
    scores: ClassVar[dict[str, str]] = {RECALL: "ROUGE-L recall of the best"}

    def __init__(self, *, n: int = 8, temperature: float = 1.0, seed: int = 0) -> None:
        if n < 2:
            raise ValueError(f"n must be at least 2, got {n}")
        if not 0 < temperature < inf:
            raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
        self.n = n
        self.temperature = temperature
        self.seed = seed

    def points(self, model: nn.Module, exam: Exam) -> Iterator[Measurement]:
        """See `Attack`."""
        drawn = cache(lambda: [self._draw(model, exam, draw) for draw in range(self.n)])  # once for all points
        yield 0, lambda: best_of([exam.ask(model, exam.forget)], 1)
        for k in [2**power for power in range(self.n.bit_length()) if 2**power < self.n] + [self.n]:
            yield k, lambda k=k: best_of(drawn(), k)

    def _draw(self, model: nn.Module, exam: Exam, draw: int) -> list[Sample]:
        return exam.ask(model, exam.forget, temperature=self.temperature, seed=self.seed * 1_000_003 + draw)


def best_of(draws: Sequence[Sequence[Sample]], k: int) -> Scores:
    """Mean over rows of the expected best of k of the draws by ROUGE-L recall, and the rows that it leaves out."""
    values, left_out = [], []
    for row in zip(*draws, strict=True):
        if without := [sample for sample in row if FAILED in sample]:
            left_out.append(without[0])
        else:
            values.append(expected_best([sample["rougeL_recall"] for sample in row], k))
    return {**mean_score(RECALL, values), **failed(left_out)}


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
