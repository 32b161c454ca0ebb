"""ROUGE recall: how much of the reference answer's wording an output repeats."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class RougeRecall(NamedTuple):
    """Recall of single words and of the longest common subsequence, each in [0, 1]."""

    rouge1: float
    rougeL: float


@cache
def _scorer():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def rouge_recall(output: str, target: str) -> RougeRecall:
    """Compute ROUGE-1 and ROUGE-L recall of an output against the reference answer, words stemmed.

    Recall is the share of the *target's* words found in the output, so a long output is not punished
    (TOFU, arXiv 2401.06121; package `rouge_score`). A target without any letter or digit gives 0.

    Args:
        output: the generated text.
        target: the reference answer.

    Example:
        >>> rouge_recall("She was born in Rome", "Born in Rome, Italy")
        RougeRecall(rouge1=0.75, rougeL=0.75)
    """
    scores = _scorer().score(target, output)
    return RougeRecall(scores["rouge1"].recall, scores["rougeL"].recall)


def _rouge_update(outputs: Sequence[str], targets: Sequence[str]) -> tuple[float, float, int]:
    if len(outputs) != len(targets):
        raise ValueError(f"outputs and targets must be of one length, got {len(outputs)} and {len(targets)}")
    rows = [rouge_recall(output, target) for output, target in zip(outputs, targets, strict=True)]
    return sum(row.rouge1 for row in rows), sum(row.rougeL for row in rows), len(rows)


def _rouge_compute(rouge1: Tensor, rouge_l: Tensor, rows: Tensor) -> dict[str, Tensor]:
    return {"rouge1_recall": rouge1 / rows, "rougeL_recall": rouge_l / rows}


class Rouge(Metric):
    """Mean over rows of ROUGE-1 and ROUGE-L recall, stemmer on.

    In [0, 1]. On retained data higher is better, on forgotten data lower. Source: TOFU (arXiv 2401.06121).

    Example:
        >>> metric = Rouge()
        >>> metric.update(["rome", "I do not know"], ["in Rome", "Paris"])
        >>> metric.compute()
        {'rouge1_recall': tensor(0.2500), 'rougeL_recall': tensor(0.2500)}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    rouge1: Tensor
    rouge_l: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rouge1", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("rouge_l", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Sequence[str], targets: Sequence[str]) -> None:
        """Add rows: generated texts and their reference answers."""
        rouge1, rouge_l, rows = _rouge_update(outputs, targets)
        self.rouge1 = self.rouge1 + rouge1
        self.rouge_l = self.rouge_l + rouge_l
        self.rows = self.rows + rows

    def compute(self) -> dict[str, Tensor]:
        """Return {"rouge1_recall", "rougeL_recall"}: scalars, NaN without rows."""
        return _rouge_compute(self.rouge1, self.rouge_l, self.rows)
