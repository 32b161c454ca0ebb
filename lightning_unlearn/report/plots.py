"""The plots of a report: lines over steps, forget against utility, distributions. Each returns one SVG drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from lightning_unlearn.report import svg
from lightning_unlearn.report.words import number

MOST_POINTS = 300  # of a line: more cannot be told apart on a screen
SQUARE = 320  # height of the trade-off plot


@dataclass(frozen=True)
class Line:
    """A named line.

    Attributes:
        name: of it.
        css: its class in the page: a set, a stage, "loss", or "other-1" to "other-4".
        points: (x, y) by x.
        intervals: (x, low, high) of points that have an interval.
    """

    name: str
    css: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Point:
    """A named point of the trade-off plot; `shape` as in `svg.marker`, `label` what stands beside it (its name)."""

    name: str
    css: str
    shape: str
    x: float
    y: float
    label: str | None = None


def thin(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Average neighbours until at most `most` points are left.

    >>> thin([(0, 1.0), (1, 3.0), (2, 5.0), (3, 7.0)], most=2)
    [(0.5, 2.0), (2.5, 6.0)]
    """
    size = -(-len(points) // most) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return list(points) if size == 1 else [_mean(group) for group in groups]


def _mean(group: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)


def line_chart(
    lines: Sequence[Line], *, y_label: str, label: str, unit_range: bool = False, x_label: str = "optimiser step"
) -> Markup:
    """Lines over the optimiser step, or `x_label`; the vertical axis holds 0, and `unit_range` fixes it to [0, 1]."""
    thinned = [replace(line, points=thin(line.points)) for line in lines]
    steps = [x for line in thinned for x, _ in line.points]
    values = [y for line in thinned for _, *ys in (*line.points, *line.intervals) for y in ys]
    x_ticks = svg.ticks(0, max([1, *steps]), least=1)
    y_ticks = [0, 0.25, 0.5, 0.75, 1] if unit_range else svg.ticks(min([0, *values]), max([0, *values]))
    x, y = svg.scales(x_ticks, y_ticks)
    parts = [svg.frame(x_ticks, y_ticks, x_label=x_label, y_label=y_label)]
    for drawn in thinned:
        for step, low, high in drawn.intervals:
            parts.append(svg.line(x(step), y(low), x(step), y(high), f"interval {drawn.css}"))
        places = [(x(step), y(value)) for step, value in drawn.points]
        parts.append(svg.path(places, f"line {drawn.css}"))
        if len(places) <= 15:
            parts.extend(
                svg.marker(
                    left,
                    top,
                    "dot",
                    f"mark {drawn.css}",
                    f"{drawn.name}, {x_label.split()[-1]} {step:g}: {number(value)}",
                )
                for (left, top), (step, value) in zip(places, drawn.points, strict=True)
            )
    return svg.svg(Markup("").join(parts), label=label)


def trade_off(points: Sequence[Point], trail: Sequence[tuple[float, float]], *, x_label: str, y_label: str) -> Markup:
    """Utility to the right, forgetting upwards, both in [0, 1]; `trail` is the way that training took."""
    unit = [0, 0.2, 0.4, 0.6, 0.8, 1]
    x, y = svg.scales(unit, unit, height=SQUARE)
    parts = [svg.frame(unit, unit, x_label=x_label, y_label=y_label, height=SQUARE)]
    places = [(x(across), y(up)) for across, up in trail]
    if len(places) > 1:
        parts.append(svg.path(places, "line trail"))
        parts.extend(svg.marker(*place, "dot", "mark trail", "during training") for place in places[1:-1])
    for point in points:
        title = f"{point.name}: {number(point.x)}, {number(point.y)}"
        parts.append(svg.marker(x(point.x), y(point.y), point.shape, f"mark {point.css}", title))
    names = [(point.name if point.label is None else point.label, x(point.x), y(point.y)) for point in points]
    parts.extend(_labels(names, x, y, avoid=places[1:-1]))
    told = "; ".join(f"{point.name}: {number(point.x)} and {number(point.y)}" for point in points)
    return svg.svg(Markup("").join(parts), label=f"{x_label} against {y_label}. {told}", height=SQUARE)


def _labels(
    named: Sequence[tuple[str, float, float]], x: svg.Scale, y: svg.Scale, *, avoid: Sequence[tuple[float, float]]
) -> list[Markup]:
    """Put each name beside its point, at the first place that is free."""
    taken = [(left - 8, top - 8, left + 8, top + 8) for _, left, top in named]
    taken += [(left - 3, top - 3, left + 3, top + 3) for left, top in avoid]
    drawn = []
    for name, left, top in (one for one in named if one[0]):
        width = 6.6 * len(name) + 3
        spots = [
            ("end", left - 12, top + 4),
            ("start", left + 12, top + 4),
            ("middle", left, top + 21),
            ("middle", left, top - 13),
        ]
        spots += [("end", left - 12, top + 18), ("end", left - 12, top - 10), ("start", left + 12, top + 18)]
        steps = [step * sign for step in range(20, 200, 6) for sign in (-1, 1)]
        spots += [("end", left - 12, top + 4 + step) for step in steps]  # of a crowd, farther away
        boxes = [(spot, _box(spot, width)) for spot in spots]
        free = [spot for spot, box in boxes if _inside(box, x, y) and not any(_overlap(box, other) for other in taken)]
        anchor, across, up = free[0] if free else spots[0]
        taken.append(_box((anchor, across, up), width))
        drawn.append(svg.text(across, up, name, f"point-name {anchor}"))
    return drawn


def _box(spot: tuple[str, float, float], width: float) -> tuple[float, float, float, float]:
    anchor, across, up = spot
    left = across - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return left, up - 10, left + width, up + 3


def _inside(box: tuple[float, float, float, float], x: svg.Scale, y: svg.Scale) -> bool:
    return box[0] >= x.start and box[2] <= x.end + 8 and box[1] >= y.end - 8 and box[3] <= y.start


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def shares(values: Sequence[float], high: float, bins: int = 20) -> list[float]:
    """The share of values in each of `bins` equal parts of [0, high]; what lies outside counts in the outer parts.

    >>> shares([0.0, 0.1, 0.9, 1.0], 1.0, bins=2)
    [0.5, 0.5]
    """
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int(value / high * bins)))] += 1
    return [count / len(values) for count in counts]


def distribution(groups: Mapping[str, Sequence[float]], *, high: float, x_label: str, label: str) -> Markup:
    """Outlines of the distributions over [0, high] of each stage's values, in shares of tokens."""
    heights = {stage: shares(values, high) for stage, values in groups.items()}
    x_ticks = svg.ticks(0, high, 4)
    y_ticks = svg.ticks(0, max(max(bars) for bars in heights.values()), 4)
    x, y = svg.scales(x_ticks, y_ticks)
    parts = [svg.frame(x_ticks, y_ticks, x_label=x_label, y_label="share of tokens")]
    for stage, bars in heights.items():
        edges = [x(high * edge / len(bars)) for edge in range(len(bars) + 1)]
        tops = [(edges[place + side], y(bar)) for place, bar in enumerate(bars) for side in (0, 1)]
        parts.append(svg.path([(edges[0], y(0)), *tops, (edges[-1], y(0))], f"area {stage}"))
    return svg.svg(Markup("").join(parts), label=label)
