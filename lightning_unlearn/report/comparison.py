"""Writes a comparison of several runs: one table and one plot, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lightning_unlearn.files import write_whole
from lightning_unlearn.report import page, verdict
from lightning_unlearn.report.dots import SHAPES
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
    return write_whole(path, render_comparison([read_run(run) for run in runs]))


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
    known: list[tuple[float, float, str]] = []
    for run in runs:
        keeps, forgets = (page.coordinate(run, "after", key) for key in pair or ("", ""))
        if keeps is not None and forgets is not None:
            known.append((keeps, forgets, title(run, runs)))
    if len(known) < len(runs):
        return f"{len(runs)} runs side by side."
    keeper, forgetter = max(known), max(known, key=lambda found: found[1])
    if keeper is forgetter:
        return f"{keeper[2]} forgets most ({number(keeper[1])}) and keeps most ({number(keeper[0])})."
    return f"{forgetter[2]} forgets most ({number(forgetter[1])}); {keeper[2]} keeps most ({number(keeper[0])})."


def title(run: Run, runs: Sequence[Run]) -> str:
    """A run's method, with its folder where another run has the same method."""
    shared = sum(other.method == run.method for other in runs) > 1
    return f"{run.method} ({run.name})" if shared and run.name != run.method else run.method


def _rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The anchors, each distinct starting and retrained model once, and then the runs, numbered."""
    rows = [*_anchors(runs, "before", "Starting model"), *_anchors(runs, "retrained", "Retrained model")]
    for place, run in enumerate(runs, start=1):
        time = duration((run.card.get("time") or {}).get("train_seconds"))
        where = f"{run.name}, not erased" if run.not_erased else run.name
        row = {"run": run, "stage": "after", "mark": str(place), "name": run.method, "where": where}
        rows.append({**row, "time": time, "verdict": verdict.verdict(run)})
    return rows


def _anchors(runs: Sequence[Run], stage: str, name: str) -> list[dict[str, Any]]:
    distinct = {repr(sorted(run.metrics[stage].items())): run for run in reversed(runs) if stage in run.metrics}
    several = len(distinct) > 1
    return [
        {
            "run": run,
            "stage": stage,
            "mark": "",
            "name": name,
            "where": f"of {run.name}" if several else "",
            "time": "",
            "verdict": None,
        }
        for run in reversed(distinct.values())
    ]


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
            name = f"{row['mark']} {row['name']}" if row["mark"] else row["name"].removesuffix(" model")
            points.append(Point(name, row["stage"], SHAPES[row["stage"]], across, up))
    x_label, y_label = (page.axis_label(key, substitutes) for key in pair)
    return trade_off(points, [], x_label=f"{x_label} →", y_label=f"↑ {y_label}")
