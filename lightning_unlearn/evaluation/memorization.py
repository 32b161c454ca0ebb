"""How much of each set a model says by heart: exact memorisation, extraction strength, paraphrases, certainty.

Source: open-unlearning (arXiv 2506.12618). Nothing here runs a model.

Shapes: B rows of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_unlearn.evaluation.log import Log, Sample
from lightning_unlearn.evaluation.rows import column, has, row_wise
from lightning_unlearn.metrics.exact_memorization import exact_memorization
from lightning_unlearn.metrics.extraction_strength import extraction_strength
from lightning_unlearn.metrics.probability import answer_probability


def scores(log: Log) -> dict[str, float]:
    """Compute every number of the protocol that the log allows, each the mean over a set's rows.

    Keys: "<set>/exact_memorization", "<set>/extraction_strength" and "<set>/paraphrase_probability", in [0, 1], where
    the answer takes the place of a paraphrase that is missing; "<set>/predictive_entropy", the mean entropy of the
    predictions at an answer's tokens, nats. On forgotten data the first three are better low.

    Args:
        log: samples by set.
    """
    numbers: dict[str, tuple[str, Callable[[Sequence[Sample]], Tensor]]] = {
        "exact_memorization": ("token_correct", exact_memorizations),
        "extraction_strength": ("token_correct", extraction_strengths),
        "paraphrase_probability": ("paraphrase_tokens", paraphrase_probabilities),
        "predictive_entropy": ("token_predictive_entropy", predictive_entropies),
    }
    return {
        f"{name}/{key}": compute(samples).mean().item()
        for name, samples in log.items()
        for key, (needed, compute) in numbers.items()
        if has(samples, needed)
    }


@row_wise
def exact_memorizations(samples: Sequence[Sample]) -> Tensor:
    """Compute the exact memorisation of each answer: float64 [B]."""
    return torch.tensor([exact_memorization(sample["token_correct"]) for sample in samples], dtype=torch.float64)


@row_wise
def extraction_strengths(samples: Sequence[Sample]) -> Tensor:
    """Compute the extraction strength of each answer: float64 [B]."""
    return torch.tensor([extraction_strength(sample["token_correct"]) for sample in samples], dtype=torch.float64)


@row_wise
def paraphrase_probabilities(samples: Sequence[Sample]) -> Tensor:
    """Compute the length-normalised probability of each paraphrased answer: float64 [B]."""
    return answer_probability(column(samples, "paraphrase_nll"), column(samples, "paraphrase_tokens"))


@row_wise
def predictive_entropies(samples: Sequence[Sample]) -> Tensor:
    """Compute the mean entropy of the predictions at each answer's tokens, nats: float64 [B]."""
    values = [sample["token_predictive_entropy"] for sample in samples]
    return torch.tensor([sum(row) / len(row) for row in values], dtype=torch.float64)
