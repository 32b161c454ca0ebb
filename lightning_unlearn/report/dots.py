"""A dot plot: named rows, in each the value of every stage with its interval, on one axis from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from lightning_unlearn.report import svg
from lightning_unlearn.report.runs import Interval
from lightning_unlearn.report.words import number

LEFT = 112  # room for the names
TOP, ROW = 30, 34  # above the first row, and the height of one
LANE = 8  # between the stages of a row, so that equal values do not hide each other
SHAPES = {"before": "ring", "after": "circle", "retrained": "diamond"}


@dataclass(frozen=True)
class DotRow:
    """A row: its name, stage -> value in [0, 1], and stage -> 95 % interval where there is one."""

    name: str
    values: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)


def dot_plot(rows: Sequence[DotRow], *, x_label: str, label: str, middle: float | None = None) -> Markup:
    """Draw the rows from top to bottom; `middle` is a value of the axis that a line marks."""
    bottom = TOP + ROW * len(rows)
    x = svg.Scale(0, 1, LEFT, svg.WIDTH - svg.RIGHT)
    parts = [svg.text(x.end, bottom + 31, x_label, "axis-name end")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(svg.line(x(tick), TOP - 8, x(tick), bottom, "middle-line" if tick == middle else "grid"))
        parts.append(svg.text(x(tick), bottom + 15, svg.tick_label(tick), "tick middle"))
    for place, row in enumerate(rows):
        parts.append(_row(row, TOP + ROW * (place + 0.5), x))
    return svg.svg(Markup("").join(parts), label=label, height=bottom + 36)


def _row(row: DotRow, y: float, x: svg.Scale) -> Markup:
    parts = [svg.text(LEFT - 10, y + 4, row.name, "axis-name end")]
    stages = [stage for stage in SHAPES if stage in row.values]
    for place, stage in enumerate(stages):
        height, value = y + LANE * (place - (len(stages) - 1) / 2), row.values[stage]
        if stage in row.intervals:
            low, high = row.intervals[stage]
            parts.append(svg.line(x(low), height, x(high), height, f"line {stage}"))
        parts.append(
            svg.marker(x(value), height, SHAPES[stage], f"mark {stage}", f"{row.name}, {stage}: {number(value)}")
        )
    return Markup("").join(parts)
