"""Writes the report of a sequence of requests: what the rows of each score after every request, and what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_unlearn.data.requests import EARLIER
from lightning_unlearn.files import write_whole
from lightning_unlearn.report import page, verdict
from lightning_unlearn.report.plots import Line, line_chart
from lightning_unlearn.report.runs import METRICS, REPORT, Run, read_run
from lightning_unlearn.report.words import better, column_label, duration, metric_label, number, span

REQUESTS = "request_*"
HEAT = ("rougeL_recall", "probability")
OVERALL = {  # metric to colour
    "closer_look/forget_efficacy": "forget",
    "closer_look/model_utility": "retain",
    "model_utility": "other-1",
    "retain/rougeL_recall": "other-2",
    "muse/verbatim_memorization": "forget",
    "muse/knowledge_memorization": "other-1",
    "muse/utility": "retain",
}
COLUMNS = (  # those that a request has
    *("forget/rougeL_recall", "forget/probability", "retain/rougeL_recall", "closer_look/model_utility"),
    *("muse/verbatim_memorization", "muse/knowledge_memorization", "muse/utility", "muse/priv_leak"),
)


def write_sequence(folder: str | Path) -> Path:
    """Write the report of a sequence of requests into its folder and return its path.

    Args:
        folder: with a run folder for each request, "request_01" and on.

    Raises:
        ValueError: the folder holds no request that was evaluated.
    """
    runs = [run for run in map(read_run, evaluated(folder)) if "after" in run.metrics]
    if not runs:
        raise ValueError(
            f"folder must hold the runs of requests ({REQUESTS}), got {str(folder)!r} with none that ended"
        )
    return write_whole(Path(folder) / REPORT, render_sequence(runs))


def evaluated(folder: str | Path) -> list[Path]:
    """The run folders of the requests that have scores, in order."""
    return sorted(path for path in Path(folder).glob(REQUESTS) if (path / METRICS).is_file())


def render_sequence(runs: Sequence[Run]) -> str:
    """The report as HTML text.

    Args:
        runs: of the requests, in order.
    """
    substitutes = {key: name for run in runs for key, name in run.substitutes.items()}
    columns = [key for key in COLUMNS if any(run.value("after", key) is not None for run in runs)]
    return page.fill(
        "sequence.template.html",
        headline=headline(runs),
        maps=[found for metric in HEAT if (found := heat(runs, metric))],
        chart=_chart(runs, substitutes),
        columns=[{"label": column_label(key, substitutes), "aim": better(key)} for key in columns],
        start=_cells(runs[0], "before", columns),
        rows=[_row(place, run, columns) for place, run in enumerate(runs, start=1)],
        intervals=any(run.intervals for run in runs),
        muse=any(key.startswith("muse/") for key in columns),
        thresholds=verdict,
        stressed=all(run.stress for run in runs),
        substitutes=substitutes,
    )


def headline(runs: Sequence[Run]) -> str:
    """How much of all that was to be forgotten is left, and how much of the rest."""
    last, first, count = runs[-1], runs[0], len(runs)
    left = [value for j in range(count) if (value := _after(runs, j, count - 1, "rougeL_recall")) is not None]
    said = f"{count} {'request' if count == 1 else 'requests'}, one after the other"
    if left:
        said += f": recall of all rows to forget is {number(sum(left) / len(left))}"
    before, after = first.value("before", "retain/rougeL_recall"), last.value("after", "retain/rougeL_recall")
    if after is not None:
        return f"{said}, of the retain set {number(after)} (from {number(before)})."
    muse = verdict.of_muse(first, last)
    return f"{said}: {muse}." if muse else f"{said}."


def heat(runs: Sequence[Run], metric: str) -> dict[str, Any] | None:
    """A map of a metric: a line for the rows of each request, a column before it and one after every request.

    None where it was not measured.
    """
    lines = []
    for j, run in enumerate(runs):
        cells = [run.value("before", f"forget/{metric}")]
        cells += [_after(runs, j, k, metric) if k >= j else None for k in range(len(runs))]
        lines.append(cells)
    if all(cell is None for cells in lines for cell in cells):
        return None
    return {"title": metric_label(metric), "lines": lines}


def _after(runs: Sequence[Run], j: int, k: int, metric: str) -> float | None:
    """The metric of the rows of request j after request k >= j, both from 0."""
    return runs[k].value("after", f"forget/{metric}" if j == k else f"{EARLIER}{j + 1}/{metric}")


def _chart(runs: Sequence[Run], substitutes: dict[str, str]) -> dict[str, Any] | None:
    lines = []
    for key, css in OVERALL.items():
        values = [runs[0].value("before", key), *(run.value("after", key) for run in runs)]
        points = [(float(place), value) for place, value in enumerate(values) if value is not None]
        if points:
            label = metric_label(key, substitutes) + (", retain set" if key.startswith("retain/") else "")
            ends = [runs[0].interval("before", key), *(run.interval("after", key) for run in runs)]
            lines.append(Line(label, css, points, [(float(place), *pair) for place, pair in enumerate(ends) if pair]))
    if not lines:
        return None
    told = "; ".join(f"{line.name} from {number(line.points[0][1])} to {number(line.points[-1][1])}" for line in lines)
    plot = line_chart(
        lines, y_label="score", label=f"Scores after each request: {told}", unit_range=True, x_label="request"
    )
    return {"svg": plot, "title": "After each request", "legend": [(line.name, line.css) for line in lines]}


def _row(place: int, run: Run, columns: Sequence[str]) -> dict[str, Any]:
    return {
        "number": place,
        "link": f"{run.path.name}/{REPORT}",
        "verdict": verdict.verdict(run),
        "cells": _cells(run, "after", columns),
        "time": duration((run.card.get("time") or {}).get("train_seconds")),
    }


def _cells(run: Run, stage: str, columns: Sequence[str]) -> list[tuple[str, str]]:
    """Each score with its interval."""
    return [(number(run.value(stage, key)), span(run.interval(stage, key))) for key in columns]
