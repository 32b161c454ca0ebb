"""Writes a comparison of several runs: one table and one plot, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lightning_unlearn.report import page, verdict
from lightning_unlearn.report.plots import Point, trade_off
from lightning_unlearn.report.runs import Run, read_run
from lightning_unlearn.report.words import SETS, better, duration, metric_label, number

COLUMNS = (
    "forget/rougeL_recall",
    "forget/probability",
    "retain/rougeL_recall",
    "retain/probability",
    "closer_look/forget_efficacy",
    "closer_look/model_utility",
    "model_utility",
    "forget_quality",
)


def write_comparison(runs: Sequence[str | Path], output: str | Path) -> Path:
    """Write one table and one forget-against-utility plot of several runs to `output` and return its path.

    Raises:
        ValueError: no runs, or one of the paths is no run folder.
    """
    if not runs:
        raise ValueError("runs: expected one run folder or more, got none")
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    return page.save(path, render_comparison([read_run(run) for run in runs]))


def render_comparison(runs: Sequence[Run]) -> str:
    """The comparison as HTML text."""
    substitutes = {key: name for run in runs for key, name in run.substitutes.items()}
    rows = _rows(runs)
    columns = [key for key in COLUMNS if any(row["run"].value(row["stage"], key) is not None for row in rows)]
    return page.fill(
        "comparison.template.html",
        headline=headline(runs),
        thresholds=verdict,
        columns=[{"label": _label(key, substitutes), "aim": better(key)} for key in columns],
        rows=[{**row, "cells": [number(row["run"].value(row["stage"], key)) for key in columns]} for row in rows],
        trade_off=_plot(runs, rows, substitutes),
        substitutes=substitutes,
        differing=len({tuple(sorted(run.substitutes.items())) for run in runs}) > 1,
    )


def headline(runs: Sequence[Run]) -> str:
    """Which run forgets most and which keeps most, by the two axes of the plot."""
    pair = page.choose_axes(runs)
    places = [[page.coordinate(run, "after", key) for key in pair or ()] for run in runs]
    if not pair or any(value is None for place in places for value in place):
        return f"{len(runs)} runs side by side."
    keeps, forgets = (max(zip(places, runs), key=lambda item: item[0][axis]) for axis in (0, 1))
    if keeps is forgets or keeps[1] is forgets[1]:
        return f"{title(keeps[1], runs)} forgets most ({number(keeps[0][1])}) and keeps most ({number(keeps[0][0])})."
    return (
        f"{title(forgets[1], runs)} forgets most ({number(forgets[0][1])}); "
        f"{title(keeps[1], runs)} keeps most ({number(keeps[0][0])})."
    )


def title(run: Run, runs: Sequence[Run]) -> str:
    """A run's method, with its folder where another run has the same method."""
    shared = sum(other.method == run.method for other in runs) > 1
    return f"{run.method} ({run.name})" if shared and run.name != run.method else run.method


def _rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The anchors, each distinct starting and retrained model once, and then the runs, numbered."""
    rows: list[dict[str, Any]] = []
    for stage, name in (("before", "Starting model"), ("retrained", "Retrained model")):
        seen: list[dict[str, float]] = []
        for run in runs:
            if stage in run.metrics and run.metrics[stage] not in seen:
                seen.append(run.metrics[stage])
                rows.append({"run": run, "stage": stage, "mark": "", "name": name, "where": "", "time": "", "verdict": None})
        for row in rows if len(seen) > 1 else ():
            if row["stage"] == stage:
                row["where"] = f"of {row['run'].name}"
    for place, run in enumerate(runs, start=1):
        judged = verdict.verdict(run)
        time = duration((run.card.get("time") or {}).get("train_seconds"))
        row = {"run": run, "stage": "after", "mark": str(place), "name": run.method, "where": run.name, "time": time}
        rows.append({**row, "verdict": judged})
    return rows


def _label(key: str, substitutes: dict[str, str]) -> str:
    group = key.rpartition("/")[0]
    name = metric_label(key, substitutes)
    return f"{SETS[group]}: {name}" if group in SETS else name


def _plot(runs: Sequence[Run], rows: Sequence[dict[str, Any]], substitutes: dict[str, str]) -> Markup | None:
    pair = page.choose_axes(runs)
    if pair is None:
        return None
    points = []
    for row in rows:
        across, up = (page.coordinate(row["run"], row["stage"], key) for key in pair)
        if across is not None and up is not None:
            name = row["mark"] and f"{row['mark']} {row['name']}" or row["name"].removesuffix(" model")
            points.append(Point(name, row["stage"], page.SHAPES[row["stage"]], across, up))
    x_label, y_label = (page.axis_label(key, substitutes) for key in pair)
    return trade_off(points, [], x_label=f"{x_label} →", y_label=f"↑ {y_label}")
