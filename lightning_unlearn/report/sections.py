"""What the sections of a report say, as plain values for the template: key figures, failures, cost, settings."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from lightning_unlearn.report.runs import STAGES, Run
from lightning_unlearn.report.words import (
    METRICS,
    better,
    clipped,
    duration,
    metric_label,
    number,
    set_label,
    shown,
    span,
)

FIGURES = (
    ("forget/rougeL_recall", "Forget set: recall"),
    ("forget/probability", "Forget set: probability"),
    ("closer_look/forget_efficacy", "Forget efficacy"),
    ("retain/rougeL_recall", "Retain set: recall"),
    ("retain/probability", "Retain set: probability"),
    ("closer_look/model_utility", "Model utility"),
    *((key, METRICS[key]) for key in ("muse/verbatim_memorization", "muse/knowledge_memorization", "muse/utility")),
)


def figures(run: Run) -> list[dict[str, Any]]:
    """The key figures that are known after training, each with its anchors."""
    return _figures(run, FIGURES)


def _figures(run: Run, named: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    found = []
    for key, label in named:
        values = {stage: run.value(stage, key) for stage in STAGES}
        if values["after"] is not None:
            suffix = " (with substitutes)" if key.startswith("closer_look/") and run.substitutes else ""
            interval = span(run.interval("after", key))
            found.append({"label": label + suffix, "aim": better(key), "values": values, "interval": interval})
    return found


def balance(run: Run) -> list[dict[str, Any]]:
    """Memorisation, privacy, utility and their harmonic mean after training, each with its anchors."""
    return _figures(run, [(key, label) for key, label in METRICS.items() if key.startswith("unlearning_score/")])


def missing(run: Run) -> list[tuple[str, str]]:
    """Scores after training that could not be computed, each with what it needs."""
    return [(metric_label(key), needed) for key, needed in run.missing.get("after", {}).items()]


def failures(run: Run) -> list[dict[str, str]]:
    """Rows that could not be evaluated: stage, set, number within the set, why, and the question where it is known."""
    questions = {
        (stage, sample.get("set"), sample.get("index")): str(sample.get("question", ""))
        for stage, samples in run.samples.items()
        for sample in samples
    }
    return [
        {
            "stage": stage,
            "set": set_label(str(row["set"])) or str(row["set"]),
            "index": str(row["index"]),
            "why": str(row["why"]),
            "question": clipped(questions.get((stage, row["set"], row["index"]), ""), 160),
        }
        for stage in STAGES
        for row in run.failed.get(stage, [])
    ]


def cost(run: Run) -> list[tuple[str, str]]:
    """What the run took, as (name, value); what the run card does not tell is left out."""
    card = run.card
    time, memory, tokens = (card.get(part) or {} for part in ("time", "memory", "tokens"))
    parameters = card.get("parameters") or {}
    speed = tokens.get("per_second") or _median(run, "train/tokens_per_second")
    rows = [
        ("Training", time.get("train_seconds"), duration),
        ("In all, with evaluation", time.get("wall_seconds"), duration),
        ("Tokens", tokens.get("seen"), shown),
        ("Tokens per second", speed, lambda value: number(value, 0)),
        (f"Peak memory ({memory.get('kind', 'process')})", memory.get("peak_gb"), lambda value: f"{value:.2f} GB"),
        ("Parameters trained", parameters.get("trainable"), shown),
        ("Parameters", parameters.get("total"), shown),
        ("Optimiser steps", card.get("steps"), shown),
    ]
    return [(name, form(value)) for name, value, form in rows if value is not None]


def settings(run: Run) -> list[dict[str, Any]]:
    """The run card as groups of (name, value), nested names joined by dots; hyperparameters by their own names."""
    titles = {
        "method": "Method",
        "data": "Data",
        "seeds": "Seeds",
        "trainer": "Trainer",
        "hardware": "Hardware",
        "versions": "Versions",
    }
    groups = ((title, flat(run.card.get(key))) for key, title in titles.items())
    return [
        {"name": title, "rows": [(name.removeprefix("hyperparameters."), value) for name, value in rows]}
        for title, rows in groups
        if rows
    ]


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested objects as (dotted name, value) rows.

    >>> flat({"class": "NPO", "hyperparameters": {"beta": 0.1, "lora": None}})
    [('class', 'NPO'), ('hyperparameters.beta', '0.1'), ('hyperparameters.lora', 'none')]
    """
    if not isinstance(value, dict):
        return [(prefix, shown(value))] if prefix else []
    return [row for key, inner in value.items() for row in flat(inner, f"{prefix}.{key}" if prefix else str(key))]


def _median(run: Run, name: str) -> float | None:
    values = [value for _, value in run.curves.get(name, [])]
    return statistics.median(values) if values else None
