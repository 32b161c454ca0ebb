"""Scores of a report by subject: which author or person is least forgotten, and which of those kept is most damaged."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from lightning_unlearn.evaluation.log import Sample, mask
from lightning_unlearn.report.runs import STAGES, Run
from lightning_unlearn.report.words import METRICS, better, number, set_label

SCORES = ("rougeL_recall", "probability")
TOLD = ("forget", "retain")


def subjects(run: Run) -> list[dict[str, Any]]:
    """A table for the forget and one for the retain set, the worst subject first; none where all rows have one subject.

    Subjects that are masked cannot be told apart, so they have no table either.
    """
    return [table for name in TOLD if (table := _table(run, name))]


def _table(run: Run, name: str) -> dict[str, Any] | None:
    groups = by_subject(run, name)
    if len(groups) < 2 or any(mask(subject) == subject for subject in groups):
        return None
    stages = [stage for stage in STAGES if any(stage in group for group in groups.values())]
    means = {
        subject: {key: {stage: mean_of(group.get(stage, ()), key) for stage in stages} for key in SCORES}
        for subject, group in groups.items()
    }
    falls = better(f"{name}/{SCORES[0]}") == "higher"
    ordered = sorted(means, key=lambda subject: _severity(means[subject][SCORES[0]], falls=falls), reverse=True)
    return {
        "name": set_label(name),
        "falls": falls,
        "stages": stages,
        "scores": [{"label": METRICS[key], "aim": better(f"{name}/{key}")} for key in SCORES],
        "rows": [
            {
                "subject": subject,
                "rows": max(len(samples) for samples in groups[subject].values()),
                "cells": [(stage, number(means[subject][key][stage])) for key in SCORES for stage in stages],
            }
            for subject in ordered
        ],
    }


def by_subject(run: Run, name: str) -> dict[str, dict[str, list[Sample]]]:
    """Samples of a set: subject -> stage -> samples; without those that name no subject, or failed."""
    groups: dict[str, dict[str, list[Sample]]] = {}
    for stage in STAGES:
        for sample in run.samples.get(stage, []):
            if sample["set"] == name and sample.get("subject") and not sample.get("failed"):
                groups.setdefault(str(sample["subject"]), {}).setdefault(stage, []).append(sample)
    return groups


def mean_of(samples: Sequence[Sample], key: str) -> float | None:
    """Mean of a score over the samples that have it, None where none has.

    >>> mean_of([{"probability": 0.5}, {"probability": 1.0}, {}], "probability")
    0.75
    """
    values = [sample[key] for sample in samples if isinstance(sample.get(key), (int, float))]
    return fmean(values) if values else None


def _severity(means: dict[str, float | None], *, falls: bool) -> float:
    """How bad a subject's score is: what is left of it after unlearning, or, where it should stay, how far it fell."""
    after, before = (means.get(stage) for stage in ("after", "before"))
    if after is None:
        return -1.0
    return (before if before is not None else 1.0) - after if falls else after
