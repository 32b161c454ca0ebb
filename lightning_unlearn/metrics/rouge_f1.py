"""ROUGE-L F1: how much of its wording an output and a reference share, longer outputs paying for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from lightning_unlearn.metrics.row_mean import RowMean


@cache
def _scorer():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def rouge_l_f1(output: str, target: str) -> float:
    """Compute the F1 of an output's and a target's longest common subsequence of words, words as they are; in [0, 1].

    The harmonic mean of the shares of output and target that the subsequence makes up; 0 for a text without any letter
    or digit. Source: MUSE (arXiv 2407.06460), verbatim and knowledge memorisation; package `rouge_score`.

    Args:
        output: the generated text.
        target: the reference.

    Example:
        >>> rouge_l_f1("Born in Rome", "born in Oslo, in Norway")  # 2 of 3 and 2 of 5 words
        0.5
    """
    return float(_scorer().score(target, output)["rougeL"].fmeasure)


class RougeF1(RowMean):
    """Mean over rows of ROUGE-L F1, stemmer off.

    In [0, 1]. On retained data higher is better, on forgotten data lower. Source: MUSE (arXiv 2407.06460).

    Example:
        >>> metric = RougeF1()
        >>> metric.update(["Rome", "nothing"], ["rome", "Oslo"])
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def update(self, outputs: Sequence[str], targets: Sequence[str]) -> None:
        """Add rows: generated texts and their references."""
        self.add([rouge_l_f1(output, target) for output, target in zip(outputs, targets, strict=True)])
