"""Extraction strength: how much of the end of an answer follows, word for word, once its beginning is given."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_unlearn.metrics.row_mean import RowMean


def extraction_strength(correct: Sequence[int]) -> float:
    """Compute 1 - k/n, k being the fewest of the n tokens after which all others are the argmax; in [0, 1].

    1 where the whole answer is said after the question alone; 0 where the last token is not the argmax, or without
    tokens. Source: open-unlearning (arXiv 2506.12618), after Carlini et al. (arXiv 2012.07805).

    Args:
        correct: 1 for each token of the answer that is the argmax of its prediction, else 0.

    Example:
        >>> extraction_strength([1, 0, 1, 1])
        0.5
    """
    wrong = [at for at, right in enumerate(correct) if not right]
    return 1 - (wrong[-1] + 1) / len(correct) if wrong else float(bool(correct))


def floored_extraction_strength(correct: Sequence[int]) -> float:
    """Compute extraction strength as open-unlearning's code does: 1/n, not 0, where the last token is not the argmax.

    In [1/n, 1]: its search for k ends at the last token.

    Example:
        >>> floored_extraction_strength([1, 1, 1, 0])
        0.25
    """
    return max(extraction_strength(correct), 1 / len(correct)) if correct else 0.0


class ExtractionStrength(RowMean):
    """Mean over rows of the extraction strength of the answer.

    In [0, 1]. On forgotten data lower is better. Source: open-unlearning (arXiv 2506.12618).

    Args:
        floor: "zero", or "one_over_n" for numbers comparable with those of open-unlearning's code.

    Raises:
        ValueError: for another floor.

    Example:
        >>> metric = ExtractionStrength()
        >>> metric.update([[1, 0, 1, 1], [1, 0]])
        >>> metric.compute()
        tensor(0.2500)
    """

    higher_is_better = False

    def __init__(self, *, floor: str = "zero") -> None:
        super().__init__()
        strengths = {"zero": extraction_strength, "one_over_n": floored_extraction_strength}
        if floor not in strengths:
            raise ValueError(f'floor must be "zero" or "one_over_n", got "{floor}"')
        self.strength = strengths[floor]

    def update(self, correct: Sequence[Sequence[int]]) -> None:
        """Add rows: 0 or 1 for each token of each answer."""
        self.add([self.strength(row) for row in correct])
