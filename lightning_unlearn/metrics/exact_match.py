"""Exact match: does an output say the reference answer, and nothing else?"""

from __future__ import annotations

from collections.abc import Sequence

from lightning_unlearn.metrics.row_mean import RowMean


def exact_match(output: str, target: str) -> bool:
    """Tell whether an output is the reference answer, but for case and the spaces around it.

    Source: knowledge questions of LUME, SemEval-2025 task 4 (arXiv 2504.02883).

    Example:
        >>> exact_match(" rome", "Rome"), exact_match("In Rome", "Rome")
        (True, False)
    """
    return output.strip().lower() == target.strip().lower()


class ExactMatch(RowMean):
    """Share of rows whose output is the reference answer.

    In [0, 1]. On retained data higher is better, on forgotten data lower. Source: LUME (arXiv 2504.02883).

    Example:
        >>> metric = ExactMatch()
        >>> metric.update(["rome", "in Rome"], ["Rome", "Rome"])
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def update(self, outputs: Sequence[str], targets: Sequence[str]) -> None:
        """Add rows: generated texts and their reference answers."""
        self.add([float(exact_match(output, target)) for output, target in zip(outputs, targets, strict=True)])
