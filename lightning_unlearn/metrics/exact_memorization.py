"""Exact memorisation: how many tokens of an answer a model would say by itself, each after the right ones before it."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_unlearn.metrics.row_mean import RowMean


def exact_memorization(correct: Sequence[int]) -> float:
    """Compute the share of an answer's tokens that are the most probable one given the tokens before, in [0, 1].

    0 for an answer without tokens. Source: open-unlearning (arXiv 2506.12618).

    Args:
        correct: 1 for each token of the answer that is the argmax of its prediction, else 0.

    Example:
        >>> exact_memorization([1, 0, 1, 1])
        0.75
    """
    return sum(correct) / len(correct) if correct else 0.0


class ExactMemorization(RowMean):
    """Mean over rows of the share of the answer's tokens that are the argmax of their prediction.

    In [0, 1]. On forgotten data lower is better. Source: open-unlearning (arXiv 2506.12618).

    Example:
        >>> metric = ExactMemorization()
        >>> metric.update([[1, 0, 1, 1], [0, 0]])
        >>> metric.compute()
        tensor(0.3750)
    """

    higher_is_better = False

    def update(self, correct: Sequence[Sequence[int]]) -> None:
        """Add rows: 0 or 1 for each token of each answer."""
        self.add([exact_memorization(row) for row in correct])
