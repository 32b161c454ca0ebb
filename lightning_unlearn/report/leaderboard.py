"""The rows of a leaderboard: starting and retrained models, then runs by method, those of several seeds as one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from lightning_unlearn.report.recovered import with_shares
from lightning_unlearn.report.runs import STAGES, Run
from lightning_unlearn.report.words import better, number

DECIDES = ("method", "data", "trainer")  # parts of a run card on which a run's scores depend


@dataclass(frozen=True)
class Row:
    """A model with its scores.

    Attributes:
        run: whose scores it shows; of several runs one with the means of their scores.
        stage: which of its models.
        name: of the method, or of the model that others are compared with.
        where: folders of its runs, as far as needed to tell rows apart.
        runs: the runs of a method that differ in their seed alone; none for a model that others are compared with.
        mark: its number, or "".
    """

    run: Run
    stage: str
    name: str
    where: str = ""
    runs: tuple[Run, ...] = ()
    mark: str = ""

    def value(self, key: str) -> float | None:
        """A score; of several runs the mean, and None where one of them lacks it."""
        return self.run.value(self.stage, key)

    def spread(self, key: str) -> float | None:
        """Standard deviation of a score over the runs of several seeds, None where there is one run or no mean."""
        values = [run.value(self.stage, key) for run in self.runs]
        return stdev(values) if len(values) > 1 and None not in values else None


def leaderboard(runs: Sequence[Run]) -> list[Row]:
    """Rows of several runs: each distinct starting and retrained model once, then the runs, numbered, by method."""
    merged = merge_seeds(map(with_shares, runs))
    methods = [group[0].method for group in merged]
    ordered = sorted(merged, key=lambda group: methods.index(group[0].method))
    rows = [
        Row(mean_run(group), "after", group[0].method, _where(group, methods), tuple(group), str(place))
        for place, group in enumerate(ordered, start=1)
    ]
    return [*_anchors(runs, "before", "Starting model"), *_anchors(runs, "retrained", "Retrained model"), *rows]


def merge_seeds(runs: Iterable[Run]) -> list[list[Run]]:
    """Groups of runs whose cards differ in seeds alone, in the order given; a run without card is a group of its own.

    Rows (by their hashes), options, Trainer and evaluation must be the same. Two runs of the same seed are two groups.
    """
    groups: dict[tuple[str, int], list[Run]] = {}
    seen: dict[str, int] = {}
    for run in runs:
        about: Any = {key: run.card.get(key) for key in DECIDES} | {"evaluation": run.evaluation}
        if not run.card.get("method"):
            about = str(run.path)
        twice = json.dumps([about, run.card.get("seeds")], sort_keys=True, default=str)
        seen[twice] = seen.get(twice, -1) + 1
        groups.setdefault((json.dumps(_without_seeds(about), sort_keys=True, default=str), seen[twice]), []).append(run)
    return list(groups.values())


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_seeds(inner) for key, inner in value.items() if key != "seed"}
    return value


def mean_run(runs: Sequence[Run]) -> Run:
    """One run in place of several: the mean of each score that all have, and of the time that training took."""
    first = runs[0]
    if len(runs) == 1:
        return first
    metrics = {}
    for stage in STAGES:
        columns = {key: [run.value(stage, key) for run in runs] for key in first.metrics.get(stage, {})}
        metrics[stage] = {key: fmean(values) for key, values in columns.items() if None not in values}
    seconds = [(run.card.get("time") or {}).get("train_seconds") for run in runs]
    time = {"train_seconds": None if None in seconds else fmean(seconds)}
    return replace(first, metrics=metrics, card={**first.card, "time": time}, samples={}, curves={}, intervals={})


def _where(group: Sequence[Run], methods: Sequence[str]) -> str:
    """Folders of a row's runs; a folder that says no more than the method is left out."""
    names = [run.name for run in group]
    said = f"{len(group)} seeds: {', '.join(names)}" if len(group) > 1 else names[0]
    return f"{said}, not erased" if group[0].not_erased else said


def _anchors(runs: Sequence[Run], stage: str, name: str) -> list[Row]:
    distinct = {repr(sorted(run.metrics[stage].items())): run for run in reversed(runs) if stage in run.metrics}
    found = list(reversed(distinct.values()))
    return [Row(run, stage, name, f"of {run.name}" if len(found) > 1 else "") for run in found]


def best(rows: Sequence[Row], key: str) -> str | None:
    """The best score of the runs as it is printed, None where a score has no best or no two runs differ in it.

    Args:
        rows: of a leaderboard; models that runs are compared with do not take part.
        key: the score.
    """
    values = [value for row in rows if row.runs and (value := row.value(key)) is not None]
    aim = better(key)
    if not aim or len(set(map(number, values))) < 2:
        return None
    return number(min(values) if aim == "lower" else max(values))
