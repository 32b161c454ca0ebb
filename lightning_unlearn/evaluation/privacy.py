"""Can it be told that a model was once trained on the forget set? Membership attacks between forget and holdout.

The holdout set has rows that no model has met. An attack's AUC is 1 where forget rows are told from these by scoring
higher, 0.5 where they cannot be told, 0 where they are told by scoring lower: forgotten too hard. So no AUC is good by
itself: it should be that of a model retrained without the forget rows.

Sources: open-unlearning (arXiv 2506.12618), MUSE (arXiv 2407.06460). Nothing here runs a model.

Shapes: B rows of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lightning_unlearn.data.records import HOLDOUT
from lightning_unlearn.evaluation.log import Log, Sample
from lightning_unlearn.evaluation.rows import column, has, row_wise
from lightning_unlearn.metrics.auc import auc, auc_closeness, priv_leak
from lightning_unlearn.metrics.membership import (
    gradient_norm_score,
    loss_score,
    min_k_plus_plus_score,
    min_k_score,
    reference_score,
    zlib_score,
)

PRIV_LEAK_ATTACK = "min_k_0.4"  # MUSE's


def scores(log: Log, retrained_log: Log | None = None) -> dict[str, float]:
    """Compute every number of the protocol that the logs allow; none without a forget and a holdout set.

    Keys: "privacy/<attack>_auc" for loss, zlib, min_k_0.2, min_k_0.4, min_k_plus_plus, reference and gradient_norm, in
    [0, 1]; with a retrained model's log also "privacy/<attack>_closeness", in [0, 1], 1 where both AUCs are equal, and
    "privacy/priv_leak", percent, best at 0, negative where the forget rows are still known.

    Args:
        log: samples by set.
        retrained_log: samples of a model trained without the forget set.
    """
    found, retrained = attack_aucs(log), attack_aucs(retrained_log or {})
    result = {f"privacy/{attack}_auc": value for attack, value in found.items()}
    result |= {f"privacy/{attack}_closeness": value for attack, value in closeness(found, retrained).items()}
    if PRIV_LEAK_ATTACK in found and retrained.get(PRIV_LEAK_ATTACK, 1.0) < 1:
        result["privacy/priv_leak"] = priv_leak(found[PRIV_LEAK_ATTACK], retrained[PRIV_LEAK_ATTACK])
    return result


def attack_aucs(log: Log) -> dict[str, float]:
    """Compute the AUC of each attack between forget and holdout whose columns both sets hold: {attack: AUC}."""
    members, others = log.get("forget", ()), log.get(HOLDOUT, ())
    return {
        attack: auc(score(members), score(others))
        for attack, (needed, score) in ATTACKS.items()
        if has(members, *needed) and has(others, *needed)
    }


def closeness(found: Mapping[str, float], retrained: Mapping[str, float]) -> dict[str, float]:
    """Compute how close the AUC of each attack is to that of a retrained model: {attack: share}, 1 where equal."""
    return {attack: auc_closeness(found[attack], retrained[attack]) for attack in found if attack in retrained}


@row_wise
def loss(samples: Sequence[Sample]) -> Tensor:
    """Compute the LOSS score of each answer: float64 [B]."""
    return loss_score(column(samples, "answer_nll"), column(samples, "answer_tokens"))


@row_wise
def zlib(samples: Sequence[Sample]) -> Tensor:
    """Compute the zlib score of each answer: float64 [B]."""
    return zlib_score(column(samples, "answer_nll"), column(samples, "answer_zlib_bytes"))


@row_wise
def reference(samples: Sequence[Sample]) -> Tensor:
    """Compute the reference score of each answer: float64 [B]."""
    return reference_score(*(column(samples, key) for key in ("answer_nll", "reference_nll", "answer_tokens")))


@row_wise
def gradient_norm(samples: Sequence[Sample]) -> Tensor:
    """Compute the gradient-norm score of each answer: float64 [B]."""
    return gradient_norm_score(column(samples, "gradient_norm"))


@row_wise
def min_k(samples: Sequence[Sample], k: float) -> Tensor:
    """Compute the Min-K score of each answer: float64 [B]."""
    return torch.tensor([min_k_score(sample["token_log_prob"], k=k) for sample in samples], dtype=torch.float64)


@row_wise
def min_k_plus_plus(samples: Sequence[Sample]) -> Tensor:
    """Compute the Min-K++ score of each answer, with k = 0.2: float64 [B]."""
    values = [
        min_k_plus_plus_score(
            sample["token_log_prob"],
            mean=[-entropy for entropy in sample["token_predictive_entropy"]],
            variance=sample["token_log_prob_variance"],
        )
        for sample in samples
    ]
    return torch.tensor(values, dtype=torch.float64)


ATTACKS: dict[str, tuple[tuple[str, ...], Callable[[Sequence[Sample]], Tensor]]] = {  # what it needs, and its scores
    "loss": (("answer_nll", "answer_tokens"), loss),
    "zlib": (("answer_nll", "answer_zlib_bytes"), zlib),
    "min_k_0.2": (("token_log_prob",), partial(min_k, k=0.2)),
    "min_k_0.4": (("token_log_prob",), partial(min_k, k=0.4)),
    "min_k_plus_plus": (("token_log_prob", "token_log_prob_variance"), min_k_plus_plus),
    "reference": (("answer_nll", "reference_nll"), reference),
    "gradient_norm": (("gradient_norm",), gradient_norm),
}
