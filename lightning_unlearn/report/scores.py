"""The tables of scores of a report: by protocol, and within it by set of questions; an unknown score is shown too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_unlearn.report.runs import GENERAL, STAGES, Run
from lightning_unlearn.report.words import (
    ATTACKS,
    METRICS,
    OF_ATTACKS,
    SETS,
    attack_label,
    attack_name,
    better,
    metric_label,
    number,
    set_label,
    span,
)

PROTOCOLS = {
    "unlearning_score": "Memorisation, privacy and utility",
    "tofu": "TOFU",
    "closer_look": "A Closer Look",
    "memorization": "Memorisation",
    "privacy": "Privacy",
    "muse": "MUSE",
    "rwku": "RWKU",
    "lume": "LUME",
    GENERAL: "General ability (lm_eval)",
}
OTHERS = "Others"
OVERALL = "Overall"
OF_SETS = {  # the protocol of a score that is kept as "<set>/<score>"
    "token_entropy": "closer_look",
    "cosine_similarity": "closer_look",
    "entailment": "closer_look",
    "exact_memorization": "memorization",
    "extraction_strength": "memorization",
    "paraphrase_probability": "memorization",
    "predictive_entropy": "memorization",
    "fluency": "unlearning_score",
}


def scores(run: Run) -> list[dict[str, Any]]:
    """The tables, in the order of the protocols: each of a set of questions, or of a whole protocol ("Overall").

    Args:
        run: whose scores.
    """
    present = {key for values in run.metrics.values() for key in values}
    tables: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for key in sorted(present, key=_order):
        protocol, part = place(key)
        tables.setdefault(protocol, {}).setdefault(part, []).append(_row(run, key))
    return [
        {"name": name, "tables": [{"name": part, "rows": rows} for part, rows in parts.items()]}
        for name, parts in tables.items()
    ]


def place(key: str) -> tuple[str, str]:
    """The protocol and the part of it that a score belongs to.

    >>> place("forget/entailment"), place("model_utility"), place("privacy/loss_auc"), place("mine/score")
    (('A Closer Look', 'Forget'), ('TOFU', 'Overall'), ('Privacy', 'AUC'), ('Others', 'Overall'))
    """
    group, _, name = key.rpartition("/")
    protocol, _, inner = group.partition("/")
    if protocol == "privacy":
        return PROTOCOLS[protocol], next((OF_ATTACKS[end] for end in OF_ATTACKS if name.endswith(end)), OVERALL)
    if protocol in PROTOCOLS:
        return PROTOCOLS[protocol], OVERALL if protocol == GENERAL else set_label(inner) or inner or OVERALL
    if name not in METRICS or (group and set_label(group) is None):
        return OTHERS, OVERALL
    return PROTOCOLS[OF_SETS.get(name, "tofu")], set_label(group) or OVERALL


def _order(key: str) -> tuple[int, bool, int, str, int, str]:
    """Where a score stands: protocols, sets and known scores in their order, all else after them by name."""
    protocol, part = place(key)
    name = key if key in METRICS else key.rpartition("/")[2]
    if part in OF_ATTACKS.values():
        name = attack_name(key)
    ranks = [_rank(PROTOCOLS.values(), protocol), _rank(SETS.values(), part), _rank([*METRICS, *ATTACKS], name)]
    return ranks[0], part == OVERALL, ranks[1], part, ranks[2], key


def _rank(known: Iterable[str], name: str) -> int:
    names = [*known]
    return names.index(name) if name in names else len(names)


def _row(run: Run, key: str) -> dict[str, Any]:
    cells = {
        stage: {"value": number(run.value(stage, key)), "interval": span(run.interval(stage, key))} for stage in STAGES
    }
    return {"label": _label(run, key), "aim": better(key), "cells": cells}


def _label(run: Run, key: str) -> str:
    """The name of a score in its table: of what is unknown to us, all that the table's heading does not say."""
    protocol, part = place(key)
    if protocol == OTHERS:
        return key
    if part in OF_ATTACKS.values():
        return attack_label(attack_name(key))
    return key.removeprefix(f"{GENERAL}/") if key.startswith(GENERAL) else metric_label(key, run.substitutes)
