"""Writes `report.html`: one file that holds everything it shows and asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lightning_unlearn.evaluation.log import redact as masked
from lightning_unlearn.files import write_whole
from lightning_unlearn.report import samples as samples_section
from lightning_unlearn.report import sections, verdict
from lightning_unlearn.report import stress as stress_section
from lightning_unlearn.report.dots import SHAPES
from lightning_unlearn.report.membership import membership
from lightning_unlearn.report.plots import Line, Point, line_chart, trade_off
from lightning_unlearn.report.runs import REPORT, Curve, Run, read_run
from lightning_unlearn.report.scores import scores
from lightning_unlearn.report.subjects import subjects
from lightning_unlearn.report.words import SETS, metric_label, number

HERE = Path(__file__).parent
STAGE_NAMES = {"before": "Before", "after": "After", "retrained": "Retrained"}
SPEED, MEMORY = "train/tokens_per_second", "train/peak_memory_gb"
LOSS_COLORS = {"loss": "loss", "forget": "forget", "retain": "retain"}
# the first pair (utility, forgetting) that a run knows is plotted; a minus sign stands for 1 - value
TRADE_OFFS = (
    ("closer_look/model_utility", "closer_look/forget_efficacy"),
    ("model_utility", "-forget/rougeL_recall"),
    ("retain/rougeL_recall", "-forget/rougeL_recall"),
    ("muse/utility", "-muse/verbatim_memorization"),
)


def write_report(run: str | Path, *, redact: bool | None = None) -> Path:
    """Write the report of a run folder into it and return its path.

    Args:
        run: the run folder.
        redact: mask every text; by default as the run card says.

    Raises:
        ValueError: the path is no run folder.
    """
    content = read_run(run)
    hide = bool(content.card.get("redacted", False)) if redact is None else redact
    return write_whole(content.path / REPORT, render(content, redact=hide))


def render(run: Run, *, redact: bool = False) -> str:
    """The report as HTML text."""
    if redact:
        hidden = {stage: [masked(sample) for sample in rows] for stage, rows in run.samples.items()}
        run = replace(run, samples=hidden)
    return fill(
        "report.template.html",
        run=run,
        redact=redact,
        verdict=verdict.verdict(run),
        thresholds=verdict,
        stages=[(stage, name) for stage, name in STAGE_NAMES.items() if stage in run.metrics],
        figures=sections.figures(run),
        trade_off=run_trade_off(run),
        balance=sections.balance(run),
        missing=sections.missing(run),
        scores=scores(run),
        membership=membership(run),
        subjects=subjects(run),
        failures=sections.failures(run),
        stress=stress_section.section(run.stress),
        curves=curves(run),
        speed=_curve("Speed", "tokens per second", [("tokens per second", "loss", run.curves.get(SPEED, []))]),
        distributions=samples_section.distributions(run),
        strips=samples_section.strips(run),
        galleries=samples_section.galleries(run),
        cost=sections.cost(run),
        settings=sections.settings(run),
    )


def fill(template: str, **values: Any) -> str:
    """Render one of this package's templates; everything that is not markup is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, stage_names=STAGE_NAMES, **values)


def script(name: str) -> dict[str, str]:
    """A script of this package for a template, with the hash by which the page's policy lets it and no other run."""
    content = Markup((HERE / name).read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return {"script": content, "script_hash": f"sha256-{digest}"}


def coordinate(run: Run, stage: str, key: str) -> float | None:
    """A value of the trade-off plot; a key that starts with a minus sign stands for 1 - value."""
    value = run.value(stage, key.removeprefix("-"))
    return 1 - value if value is not None and key.startswith("-") else value


def axis_label(key: str, substitutes: dict[str, str]) -> str:
    """Name of an axis of the trade-off plot."""
    group, _, _ = key.removeprefix("-").rpartition("/")
    name = metric_label(key.removeprefix("-"), substitutes)
    name = f"{name} on {SETS[group].lower()}" if group in SETS else name
    return f"1 − {name}" if key.startswith("-") else name


def choose_axes(runs: Sequence[Run]) -> tuple[str, str] | None:
    """The first pair of axes that every run knows after training (or before, where it has not ended)."""

    def known(run: Run, pair: tuple[str, str]) -> bool:
        return any(all(coordinate(run, stage, key) is not None for key in pair) for stage in ("after", "before"))

    return next((pair for pair in TRADE_OFFS if all(known(run, pair) for run in runs)), None)


def run_trade_off(run: Run) -> dict[str, Any] | None:
    """Forget against utility with the starting and the retrained model as anchors, and the way there if logged."""
    pair = choose_axes([run])
    if pair is None:
        return None
    points = []
    for stage, name in STAGE_NAMES.items():
        across, up = (coordinate(run, stage, key) for key in pair)
        if across is not None and up is not None:
            points.append(Point(name, stage, SHAPES[stage], across, up))
    ends = {point.css: (point.x, point.y) for point in points}
    way = [*filter(None, [ends.get("before")]), *_way(run, pair), *filter(None, [ends.get("after")])]
    labels = [axis_label(key, run.substitutes) for key in pair]
    return {
        "svg": trade_off(points, way, x_label=f"{labels[0]} →", y_label=f"↑ {labels[1]}"),
        "labels": labels,
        "rows": [(point.name, point.css, number(point.x), number(point.y)) for point in points],
    }


def _way(run: Run, pair: tuple[str, str]) -> list[tuple[float, float]]:
    columns = [dict(run.curves.get("eval/" + key.removeprefix("-"), [])) for key in pair]
    across, up = (
        {step: 1 - value if key.startswith("-") else value for step, value in column.items()}
        for key, column in zip(pair, columns, strict=True)
    )
    return [(across[step], up[step]) for step in sorted(set(across) & set(up))]


def curves(run: Run) -> list[dict[str, Any]]:
    """Plots over training: loss terms, forget and retain scores, aggregates; only what was logged."""
    groups = [("Loss terms", "loss", _losses(run))]
    for metric in ("rougeL_recall", "probability"):
        pairs = [(SETS[part], part, evaluated(run, f"{part}/{metric}")) for part in ("forget", "retain")]
        groups.append((f"{metric_label(metric)} during training", metric_label(metric), pairs))
    colors = {
        "closer_look/forget_efficacy": "forget",
        "closer_look/model_utility": "retain",
        "model_utility": "other-1",
    }
    named = [(metric_label(key, run.substitutes), color, evaluated(run, key)) for key, color in colors.items()]
    groups.append(("Forget efficacy and utility during training", "score", named))
    groups.append(
        ("Bad answers, asked again", "share", [("bad answers", "forget", run.curves.get("early/bad_rate", []))])
    )
    return [plot for title, unit, parts in groups for plot in _curve(title, unit, parts)]


def _losses(run: Run) -> list[tuple[str, str, Curve]]:
    terms = {name.removeprefix("train/"): points for name, points in run.curves.items() if name.startswith("train/")}
    terms = {name: points for name, points in terms.items() if "train/" + name not in (SPEED, MEMORY)}
    others = [name for name in terms if name not in LOSS_COLORS]
    colors = {**LOSS_COLORS, **{name: f"other-{1 + place % 4}" for place, name in enumerate(others)}}
    return [(name, colors[name], points) for name, points in terms.items()]


def evaluated(run: Run, key: str) -> Curve:
    """A metric over training, from the starting model on where that was evaluated."""
    points, start = run.curves.get("eval/" + key, []), run.value("before", key)
    return [(0.0, start), *points] if points and points[0][0] > 0 and start is not None else points


def _curve(title: str, unit: str, parts: Sequence[tuple[str, str, Curve]]) -> list[dict[str, Any]]:
    lines = [Line(name, css, points) for name, css, points in parts if points]
    if not lines:
        return []
    ends = "; ".join(f"{line.name} from {number(line.points[0][1])} to {number(line.points[-1][1])}" for line in lines)
    unit_range = unit not in ("loss", "tokens per second")
    plot = line_chart(lines, y_label=unit, label=f"{title}: {ends}", unit_range=unit_range)
    return [{"title": title, "svg": plot, "legend": [(line.name, line.css) for line in lines]}]
