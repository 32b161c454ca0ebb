"""The closer-look protocol (arXiv 2410.08109): model utility and forget efficacy from per-sample logs.

Adds token entropy, cosine similarity and entailment to TOFU's numbers. Nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightning_unlearn.evaluation.log import Log, Sample
from lightning_unlearn.evaluation.rows import column, has
from lightning_unlearn.evaluation.tofu import (
    can_have_utility,
    harmonic_mean,
    has_perturbed,
    probabilities,
    truth_ratios,
    utility_sets,
)
from lightning_unlearn.metrics.truth_ratio import ratio_distance, ratio_utility

TEXT_METRICS = ("token_entropy", "cosine_similarity", "entailment")


def model_utility(log: Log) -> float:
    """Compute the harmonic mean of ROUGE-L recall, probability, truth ratio and the three text metrics over 3 sets.

    In [0, 1], higher is better; 0 if any of the 18 numbers (retain, real authors, world facts) is 0. A log with retain
    alone of the three gives the mean of its 6 numbers. Source: closer-look (arXiv 2410.08109, section 3).

    Args:
        log: samples by set.

    Raises:
        ValueError: if one of the three sets is missing, or lacks what a number needs.
    """
    return harmonic_mean([number for name in utility_sets(log) for number in _utility_numbers(log[name], name)])


def forget_efficacy(log: Log) -> float:
    """Compute 1 - mean of ROUGE-L recall, probability, 1 - min(R, 1/R), cosine similarity and entailment on forget.

    In [0, 1], higher means more forgotten; token entropy is not part of it. Source: closer-look (arXiv 2410.08109,
    section 3).

    Args:
        log: samples by set.

    Raises:
        ValueError: if there is no forget set, or it lacks what a number needs.
    """
    samples = log.get("forget")
    if not samples:
        raise ValueError(f'log must hold the set "forget", got sets {list(log)}')
    numbers = [column(samples, key).mean().item() for key in ("rougeL_recall", "cosine_similarity", "entailment")]
    numbers.append(probabilities(samples, "forget").mean().item())
    numbers.append(ratio_distance(truth_ratios(samples)).mean().item())
    return 1 - sum(numbers) / len(numbers)


def scores(log: Log) -> dict[str, float]:
    """Compute every number that the protocol adds to TOFU's, as far as the log allows.

    Keys: "<set>/token_entropy", "<set>/cosine_similarity", "<set>/entailment", "closer_look/model_utility",
    "closer_look/forget_efficacy"; the last two are left out where a set has no perturbed answers, all of them where
    answers were not judged (the TOFU authors' logs).

    Args:
        log: samples by set.
    """
    judged = {name: samples for name, samples in log.items() if has(samples, *TEXT_METRICS)}
    result = {
        f"{name}/{key}": column(samples, key).mean().item() for name, samples in judged.items() for key in TEXT_METRICS
    }
    if can_have_utility(judged):
        result["closer_look/model_utility"] = model_utility(judged)
    if has_perturbed(judged.get("forget", ())):
        result["closer_look/forget_efficacy"] = forget_efficacy(judged)
    return result


def _utility_numbers(samples: Sequence[Sample], name: str) -> list[float]:
    numbers = [column(samples, key).mean().item() for key in ("rougeL_recall", *TEXT_METRICS)]
    numbers.append(probabilities(samples, name).mean().item())
    numbers.append(ratio_utility(truth_ratios(samples)).mean().item())
    return numbers
