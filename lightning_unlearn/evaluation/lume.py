"""The LUME protocol, SemEval-2025 task 4 (arXiv 2504.02883): what is said again and known of three tasks, from the log.

Nothing here runs a model. The published final score needs MMLU too, a task of lm_eval: see `with_abilities`.
"""

from __future__ import annotations

from collections.abc import Mapping

from lightning_unlearn.data.requests import must_go
from lightning_unlearn.evaluation.log import Log
from lightning_unlearn.evaluation.privacy import HOLDOUT, loss
from lightning_unlearn.evaluation.rows import column, has
from lightning_unlearn.evaluation.tofu import harmonic_mean
from lightning_unlearn.metrics.auc import auc

KEYS = {"completion": "rougeL_recall", "knowledge": "exact_match"}  # what is measured, by how a set's name ends


def scores(log: Log) -> dict[str, float]:
    """Compute every number of the protocol that the log allows, all in [0, 1].

    Keys: "lume/<set>", the mean ROUGE-L recall of a set of completions ("forget_task1_completion"), the share of exact
    matches of one of questions ("retain_task3_knowledge"): low on forget, high on retain is better.
    "lume/task_aggregate", the harmonic mean of these, those of forget as 1 - value; higher is better.
    "lume/mia_auc", how well the loss (its end token counted) tells "forget" from "holdout", and "lume/mia_score",
    1 - 2 |AUC - 1/2|, higher is better: 1 where they cannot be told.

    Args:
        log: samples by set.
    """
    means = {name: column(log[name], key).mean().item() for name in log if (key := _key(name)) and has(log[name], key)}
    result = {f"lume/{name}": value for name, value in means.items()}
    if any(map(must_go, means)) and not all(map(must_go, means)):
        good = [1 - value if must_go(name) else value for name, value in means.items()]
        result["lume/task_aggregate"] = harmonic_mean(good)
    members, others = log.get("forget", ()), log.get(HOLDOUT, ())
    if has(members, "answer_nll", "answer_tokens") and has(others, "answer_nll", "answer_tokens"):
        result["lume/mia_auc"] = auc(loss(members), loss(others))
        result["lume/mia_score"] = 1 - 2 * abs(result["lume/mia_auc"] - 0.5)
    return result


def final_score(task_aggregate: float, mia_score: float, mmlu: float) -> float:
    """Compute the score that submissions were ranked by: the mean of its three arguments, in [0, 1].

    Submissions with an MMLU below 0.371, three quarters of the starting 7B model's, were not ranked.

    Args:
        task_aggregate: "lume/task_aggregate".
        mia_score: "lume/mia_score".
        mmlu: mean accuracy on MMLU, in [0, 1].

    Example:
        >>> round(final_score(0.25, 0.5, 0.45), 6)
        0.4
    """
    return (task_aggregate + mia_score + mmlu) / 3


def with_abilities(scores: Mapping[str, float], abilities: Mapping[str, float]) -> dict[str, float]:
    """Compute "lume/final_score" where both the protocol's scores and MMLU are there; an empty dict elsewhere.

    Args:
        scores: of a stage in `metrics.json`.
        abilities: of the same stage, by lm_eval, "<task>/<metric>".

    Example:
        >>> with_abilities({"lume/task_aggregate": 0.25, "lume/mia_score": 0.5}, {"mmlu/acc": 0.75})
        {'lume/final_score': 0.5}
    """
    parts = [scores.get("lume/task_aggregate"), scores.get("lume/mia_score"), abilities.get("mmlu/acc")]
    known = [part for part in parts if part is not None]
    return {"lume/final_score": final_score(*known)} if len(known) == len(parts) else {}


def _key(name: str) -> str | None:
    return KEYS.get(name.rpartition("_")[2])
