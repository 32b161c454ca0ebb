"""Memorisation, privacy and utility, and their harmonic mean: what is left, what shows, what was kept.

All three are reported with the mean: which method is best changes when one of them is left out. A part whose numbers a
log lacks is named by `missing`, and there is no mean then.

Source: open-unlearning (arXiv 2506.12618). Nothing here runs a model.

Shapes: B rows of a set.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_unlearn.data.records import HOLDOUT
from lightning_unlearn.evaluation import memorization, privacy, tofu
from lightning_unlearn.evaluation.log import Log, Sample, is_masked
from lightning_unlearn.evaluation.rows import has, row_wise
from lightning_unlearn.metrics.fluency import fluency
from lightning_unlearn.metrics.hub import words
from lightning_unlearn.metrics.truth_ratio import ratio_preference

PARTS = {
    "memorization": 'a set "forget" with perturbed answers and "token_correct"',
    "privacy": 'sets "forget" and "holdout", and the log of a retrained model with both',
    "utility": "the starting model's log, and of both models model utility and the answers to the forget set",
}


def scores(log: Log, retrained_log: Log | None = None, *, start_log: Log | None = None) -> dict[str, float]:
    """Compute the three parts that the logs allow, and their harmonic mean where all are there.

    Keys, each the higher the better: "unlearning_score/memorization", "unlearning_score/privacy",
    "unlearning_score/utility", "unlearning_score/harmonic_mean"; and "forget/fluency", bits.

    Args:
        log: samples by set.
        retrained_log: samples of a model trained without the forget set.
        start_log: samples of the model before unlearning.
    """
    parts = _parts(log, retrained_log, start_log)
    result = {f"unlearning_score/{part}": value for part, value in parts.items()}
    if len(parts) == len(PARTS):
        result["unlearning_score/harmonic_mean"] = tofu.harmonic_mean(list(parts.values()))
    if has_fluency(log):
        result["forget/fluency"] = fluencies(log["forget"]).mean().item()
    return result


def missing(log: Log, retrained_log: Log | None = None, *, start_log: Log | None = None) -> dict[str, str]:
    """Say of each part that the logs do not allow what it needs: {"unlearning_score/<part>": what}."""
    there = _parts(log, retrained_log, start_log)
    return {f"unlearning_score/{part}": needed for part, needed in PARTS.items() if part not in there}


def memorization_score(log: Log) -> float:
    """Compute the harmonic mean of 1 - x over four measures x of memorisation on the forget set, in [0, 1].

    They are extraction strength, exact memorisation, the probability of the paraphrase, and P_right / (P_right +
    P_wrong), the truth ratio R as 1/(1 + R). Higher means more forgotten; the last is 1/2 where nothing is known.

    Args:
        log: samples by set.

    Raises:
        ValueError: if the forget set lacks what a number needs.
    """
    samples = log["forget"]
    remembered = (
        memorization.extraction_strengths(samples),
        memorization.exact_memorizations(samples),
        memorization.paraphrase_probabilities(samples),
        ratio_preference(tofu.truth_ratios(samples)),
    )
    return tofu.harmonic_mean([1 - values.mean().item() for values in remembered])


def privacy_score(log: Log, retrained_log: Log) -> float:
    """Compute the harmonic mean over attacks of how close their AUC is to that of a retrained model, in [0, 1].

    Higher is better. Attacks whose columns both logs hold take part.

    Args:
        log: samples by set.
        retrained_log: samples of a model trained without the forget set.

    Raises:
        ValueError: if there is no such attack.
    """
    closeness = privacy.closeness(privacy.attack_aucs(log), privacy.attack_aucs(retrained_log))
    if not closeness:
        got = f"{list(log)} and {list(retrained_log)}"
        raise ValueError(f'log and retrained_log must hold the sets "forget" and "holdout", got {got}')
    return tofu.harmonic_mean(list(closeness.values()))


def utility_score(log: Log, start_log: Log) -> float:
    """Compute the harmonic mean of model utility (TOFU) and fluency on forget, as shares of the starting model's.

    In [0, 1], higher is better; a share above 1 counts as 1, and one of a starting model that had 0 as 1.

    Args:
        log: samples by set.
        start_log: samples of the model before unlearning.

    Raises:
        ValueError: if a log lacks what a number needs.
    """
    pairs = [(tofu.model_utility(log), tofu.model_utility(start_log))]
    pairs.append(tuple(fluencies(one["forget"]).mean().item() for one in (log, start_log)))
    return tofu.harmonic_mean([min(after / before, 1.0) if before else 1.0 for after, before in pairs])


@row_wise
def fluencies(samples: Sequence[Sample]) -> Tensor:
    """Compute the fluency of each generated answer, bits: float64 [B]; NaN where its text is masked."""
    return torch.tensor([_fluency(sample) for sample in samples], dtype=torch.float64)


def has_fluency(log: Log) -> bool:
    """Tell whether the fluency of the forget set's answers is known, or can be computed."""
    samples = log.get("forget", ())
    return has(samples, "generation") and not bool(fluencies(samples).isnan().any())


def _fluency(sample: Sample) -> float:
    text = sample["generation"]
    return float(sample.get("fluency", torch.nan if is_masked(text) else fluency(words(text))))


def _parts(log: Log, retrained_log: Log | None, start_log: Log | None) -> dict[str, float]:
    found = {}
    if has(log.get("forget", ()), "token_correct", "perturbed_tokens"):
        found["memorization"] = memorization_score(log)
    if retrained_log and all(_can_be_attacked(one) for one in (log, retrained_log)):
        found["privacy"] = privacy_score(log, retrained_log)
    if start_log and all(tofu.can_have_utility(one) and has_fluency(one) for one in (log, start_log)):
        found["utility"] = utility_score(log, start_log)
    return found


def _can_be_attacked(log: Log) -> bool:
    return all(has(log.get(name, ()), "answer_nll") for name in ("forget", HOLDOUT))
