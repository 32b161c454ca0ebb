"""Scores over runs that differ in their seeds: mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from lightning_unlearn.report.runs import read_run


class Spread(NamedTuple):
    """A score over runs.

    Attributes:
        mean: over the runs.
        deviation: standard deviation of a run, with n - 1 in the denominator; NaN of one run.
        runs: how many have the score, n.
    """

    mean: float
    deviation: float
    runs: int


def spread(values: Sequence[float]) -> Spread:
    """Compute mean, standard deviation and number of values.

    Example:
        >>> spread([0.5, 0.75, 1.0])
        Spread(mean=0.75, deviation=0.25, runs=3)
    """
    return Spread(mean(values), stdev(values) if len(values) > 1 else float("nan"), len(values))


def spread_over_runs(runs: Sequence[str | Path], *, stage: str = "after") -> dict[str, Spread]:
    """Compute mean and spread of every score over run folders, best of one method with several seeds.

    Args:
        runs: run folders; a score that some lack, or that is no finite number there, is that of the others.
        stage: "before", "after" or "retrained".

    Raises:
        ValueError: if there are no runs, a path is no run folder, or one lacks the stage.
    """
    if not runs:
        raise ValueError("runs must name one run folder at least, got none")
    read = [read_run(run) for run in runs]
    without = [str(run.path) for run in read if stage not in run.metrics]
    if without:
        raise ValueError(f'every run must have scores of the stage "{stage}", got none in {without}')
    keys = dict.fromkeys(key for run in read for key in run.metrics[stage])
    values = {key: [value for run in read if (value := run.value(stage, key)) is not None] for key in keys}
    return {key: spread(found) for key, found in values.items() if found}
