"""Writes a comparison of several runs: a page with leaderboard and plot, or the leaderboard alone for papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lightning_unlearn.files import write_whole
from lightning_unlearn.report import page, recovered, tables, verdict
from lightning_unlearn.report.dots import SHAPES
from lightning_unlearn.report.leaderboard import Row, best, leaderboard
from lightning_unlearn.report.plots import Point, trade_off
from lightning_unlearn.report.recovered import is_recovered, told
from lightning_unlearn.report.runs import Run, read_run
from lightning_unlearn.report.words import (
    STRONGEST,
    better,
    column_label,
    duration,
    metric_label,
    number,
    stress_rank,
)
from lightning_unlearn.usage import did_you_mean

COLUMNS = (
    "unlearning_score/harmonic_mean",
    "unlearning_score/memorization",
    "unlearning_score/privacy",
    "unlearning_score/utility",
    STRONGEST,
    "forget/rougeL_recall",
    "forget/probability",
    "retain/rougeL_recall",
    "retain/probability",
    "closer_look/forget_efficacy",
    "closer_look/model_utility",
    "model_utility",
    "forget_quality",
    "muse/verbatim_memorization",
    "muse/knowledge_memorization",
    "muse/utility",
    "muse/priv_leak",
    "lume/task_aggregate",
    "lume/mia_score",
    "lume/final_score",
)
MOST_NAMES = 8  # on the plot


def write_comparison(
    runs: Sequence[str | Path], output: str | Path, *, form: str = "html", columns: Sequence[str] | None = None
) -> Path:
    """Write a comparison of runs to `output` and return its path.

    Args:
        runs: run folders.
        output: the file.
        form: "html" for a page with plot and leaderboard; "latex", "csv" or "markdown" for the leaderboard alone.
        columns: keys of the scores to show, as in `metrics.json`; by default those of `COLUMNS` that a run
            has, and what each of its attacks brought back.

    Raises:
        ValueError: no runs, one of the paths is no run folder, an unknown form or score, or a folder for `output`.
    """
    if not runs:
        raise ValueError("runs: expected one run folder or more, got none")
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if Path(output).is_dir():
        raise ValueError(f"output must be a file, got the folder {str(output)!r}")
    content = [read_run(run) for run in runs]
    return write_whole(output, FORMS[form](content, columns))


def render_comparison(runs: Sequence[Run], columns: Sequence[str] | None = None) -> str:
    """The comparison as HTML text."""
    rows, substitutes = leaderboard(runs), _substitutes(runs)
    keys = choose_columns(rows, columns)
    attacks = [] if columns else [key for key in keys if is_recovered(key) and key != STRONGEST]
    return page.fill(
        "comparison.template.html",
        headline=headline(rows),
        thresholds=verdict,
        scores=_board([key for key in keys if key not in attacks], rows, column_label, substitutes),
        attacks=_board(attacks, [row for row in rows if row.runs], metric_label, substitutes),
        attacked=any(run.stress for run in runs),
        attacked_differently=recovered.differ(runs),
        stressed=all(run.stress for run in runs),
        trade_off=_plot(runs, rows, substitutes),
        most_names=MOST_NAMES,
        substitutes=substitutes,
        differing=len({tuple(sorted(run.substitutes.items())) for run in runs}) > 1,
        **page.script("comparison.js"),
    )


def _table(write: Callable[[Sequence[Row], Sequence[str], dict[str, str]], str]) -> Callable[..., str]:
    def render(runs: Sequence[Run], columns: Sequence[str] | None = None) -> str:
        rows = leaderboard(runs)
        return write(rows, choose_columns(rows, columns), _substitutes(runs))

    return render


FORMS: dict[str, Callable[..., str]] = {
    "html": render_comparison,
    "latex": _table(tables.latex),
    "csv": _table(tables.comma_separated),
    "markdown": _table(tables.markdown),
}


def choose_columns(rows: Sequence[Row], columns: Sequence[str] | None) -> list[str]:
    """The scores to show: those asked for, else those of `COLUMNS` that a row has, and the share of each attack.

    Raises:
        ValueError: no row has a score that was asked for.
    """
    known = {key for row in rows for key in row.run.metrics.get(row.stage, {})}
    unknown = [key for key in columns or () if key not in known]
    if unknown:
        raise ValueError(
            f"columns must be scores of the runs, got {unknown[0]!r}{did_you_mean(unknown[0], known)}; there are: "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    if columns:
        return list(columns)
    attacks = [key for key in known if is_recovered(key) and key not in COLUMNS]
    ordered = [*COLUMNS, *sorted(attacks, key=lambda key: (stress_rank(key.rpartition("/")[2]), key))]
    return [key for key in ordered if any(row.value(key) is not None for row in rows)]


def headline(rows: Sequence[Row]) -> str:
    """Which run forgets most and which keeps most, by the two axes of the plot."""
    ranked = [row for row in rows if row.runs]
    pair = page.choose_axes([row.run for row in ranked])
    known: list[tuple[float, float, str]] = []
    for row in ranked:
        keeps, forgets = (page.coordinate(row.run, "after", key) for key in pair or ("", ""))
        if keeps is not None and forgets is not None:
            known.append((keeps, forgets, tables.full_name(row, rows)))
    count = sum(len(row.runs) for row in ranked)
    if len(known) < len(ranked):
        return f"{count} runs side by side." if count > 1 else f"{ranked[0].name} alone."
    keeper, forgetter = max(known), max(known, key=lambda found: found[1])
    if keeper is forgetter:
        return f"{keeper[2]} forgets most ({number(keeper[1])}) and keeps most ({number(keeper[0])})."
    return f"{forgetter[2]} forgets most ({number(forgetter[1])}); {keeper[2]} keeps most ({number(keeper[0])})."


def _substitutes(runs: Sequence[Run]) -> dict[str, str]:
    return {key: name for run in runs for key, name in run.substitutes.items()}


def _board(
    keys: Sequence[str], rows: Sequence[Row], label: Callable[[str, dict[str, str]], str], substitutes: dict[str, str]
) -> dict[str, Any]:
    """A table for the template."""
    tops = {key: best(rows, key) for key in keys}
    return {
        "columns": [{"label": label(key, substitutes), "aim": better(key)} for key in keys],
        "rows": [_shown(row, tops) for row in rows],
    }


def _shown(row: Row, tops: dict[str, str | None]) -> dict[str, Any]:
    """A row for the template."""
    seconds = (row.run.card.get("time") or {}).get("train_seconds") if row.runs else None
    return {
        "row": row,
        "cells": [_cell(row, key, top) for key, top in tops.items()],
        "seconds": "" if seconds is None else seconds,
        "time": duration(seconds),
        "verdict": verdict.verdict(row.run) if row.runs else None,
        "attacked": told(row.runs, STRONGEST),
    }


def _cell(row: Row, key: str, top: str | None) -> dict[str, Any]:
    value, spread, said, note = row.value(key), row.spread(key), number(row.value(key)), told(row.runs, key)
    if key == STRONGEST and value is not None:
        note = f"{note}: {recovered.strongest(row.runs)}"
    return {
        "text": "" if note and value is None else said,
        "spread": None if spread is None else number(spread),
        "note": note,
        "value": "" if value is None else value,
        "best": bool(row.runs) and said == top,
    }


def _plot(runs: Sequence[Run], rows: Sequence[Row], substitutes: dict[str, str]) -> Markup | None:
    pair = page.choose_axes(runs)
    if pair is None:
        return None
    points = []
    for row in rows:
        across, up = (page.coordinate(row.run, row.stage, key) for key in pair)
        if across is not None and up is not None:
            name = f"{row.mark} {row.name}".strip().removesuffix(" model")
            points.append(Point(name, row.stage, SHAPES[row.stage], across, up))
    x_label, y_label = (page.axis_label(key, substitutes) for key in pair)
    return trade_off(_labelled(points), [], x_label=f"{x_label} →", y_label=f"↑ {y_label}")


def _labelled(points: Sequence[Point]) -> Sequence[Point]:
    """Of many runs only those that no other beats on both axes bear their number."""
    runs = [point for point in points if point.css == "after"]
    if len(runs) <= MOST_NAMES:
        return points

    def beaten(point: Point) -> bool:
        return any(o.x >= point.x and o.y >= point.y and (o.x, o.y) != (point.x, point.y) for o in runs)

    return [
        replace(point, label="" if beaten(point) else point.name.split()[0]) if point in runs else point
        for point in points
    ]
