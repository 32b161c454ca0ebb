"""Two drawings of a run: the rate of products against the roof, and memory against the size of the vocabulary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from benchmarks.cases import Case
from benchmarks.measure import Result
from benchmarks.peers import IMPLEMENTATIONS
from lightning_unlearn.report.svg import Scale, line, marker, path, text

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LEGEND = 720, 400, 64, 30, 44, 210
COLOURS = ("#c2410c", "#64748b", "#2563eb", "#15803d", "#65a30d", "#7c3aed", "#a855f7", "#db2777", "#0d9488")
NAMES = tuple(IMPLEMENTATIONS)
STYLE = """
svg { background: #fff; font: 12px system-ui, sans-serif } text { fill: #334155 } .grid { stroke: #e2e8f0 }
path.line { fill: none; stroke-width: 2 } .roof { fill: none; stroke: #334155; stroke-dasharray: 6 4 }
.end { text-anchor: end } .middle { text-anchor: middle }
"""
Points = Mapping[str, Sequence[tuple[float, float]]]


def log_ticks(values: Sequence[float]) -> list[float]:
    """Powers of ten, and twice and five times them, that cover positive values.

    >>> log_ticks([3, 40])
    [2.0, 5.0, 10.0, 20.0, 50.0]
    """
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    grid = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max(index for index, tick in enumerate(grid) if tick <= low)
    last = min(index for index, tick in enumerate(grid) if tick >= high)
    return grid[first : max(last, first + 1) + 1]


def log_plot(
    points: Points,
    roof: Sequence[tuple[float, float]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    joined: bool,
    names: Sequence[str] = NAMES,
) -> Markup:
    """Points of each implementation over logarithmic axes, with a legend at the right.

    Args:
        points: by implementation.
        roof: a dashed line; empty for none.
        x_label: what is to the right.
        y_label: what is upwards.
        title: what the drawing shows, for those who cannot see it.
        joined: whether the points of an implementation are a line.
        names: all implementations, which take colours in order.
    """
    places = [place for some in (*points.values(), roof) for place in some]
    x_ticks, y_ticks = log_ticks([x for x, _ in places]), log_ticks([y for _, y in places])
    right, bottom = WIDTH - LEGEND, HEIGHT - BOTTOM
    across = Scale(math.log10(x_ticks[0]), math.log10(x_ticks[-1]), LEFT, right)
    up = Scale(math.log10(y_ticks[0]), math.log10(y_ticks[-1]), bottom, TOP)
    parts = [text(LEFT, 16, y_label, ""), text(right, HEIGHT - 8, x_label, "end")]
    for tick in y_ticks:
        y = up(math.log10(tick))
        parts += [line(LEFT, y, right, y, "grid"), text(LEFT - 6, y + 4, f"{tick:g}", "end")]
    for tick in x_ticks:
        parts.append(text(across(math.log10(tick)), bottom + 16, f"{tick:g}", "middle"))
    parts.append(path([(across(math.log10(x)), up(math.log10(y))) for x, y in roof], "roof") if roof else Markup(""))
    for index, (name, some) in enumerate(points.items()):
        drawn = [(across(math.log10(x)), up(math.log10(y))) for x, y in sorted(some)]
        css = f"series-{names.index(name)}"
        parts.append(path(drawn, f"line {css}") if joined else Markup(""))
        told = [f"{name}: {x:.4g}, {y:.4g}" for x, y in sorted(some)]
        parts += [marker(*place, "circle", css, said) for place, said in zip(drawn, told, strict=True)]
        parts += [marker(right + 16, 40 + 20 * index, "circle", css, name), text(right + 28, 44 + 20 * index, name, "")]
    return _whole(Markup("").join(parts), title)


def _whole(body: Markup, title: str) -> Markup:
    fills = [f".series-{i} {{ fill: {c}; stroke: {c} }}" for i, c in enumerate(COLOURS)]
    style = Markup("\n".join([*fills, STYLE]))
    opening = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" aria-label="{}">'
    return Markup(opening + "<style>{}</style>{}</svg>\n").format(WIDTH, HEIGHT, title, style, body)


def roofline(results: Sequence[Result]) -> Markup | None:
    """Rate of our schedule's products over their intensity, for cases from hidden states; None where there are none.

    The intensity is operations over the bytes that no schedule can spare. The roof is the rate of a copy times the
    intensity, up to the rate of the fastest bare products.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    products, copies = [], []
    for result in results:
        case, floor, m = result.case, result.floor, result.measurement
        if case.source != "hidden" or m.median_seconds is None:
            continue
        operations = floor.products * 2 * case.kept * case.hidden * case.vocabulary / 1e12
        intensity = operations * 1e12 / least_bytes(case)
        points.setdefault(m.implementation, []).append((intensity, operations / m.median_seconds))
        products.append(operations / floor.seconds)
        copies.append(floor.copy_rate / 1e12)
    if not points:
        return None
    rate, ridge = max(products), max(products) / max(copies)
    far = max(ridge, *(x for some in points.values() for x, _ in some))
    return log_plot(
        points,
        [(ridge / 4, rate / 4), (ridge, rate), (far, rate)],
        x_label="operations a byte of hidden states, head and gradients",
        y_label="tera-operations a second (dashed: a copy's rate, then bare products')",
        title="Rate of each implementation against a copy and bare matrix products",
        joined=False,
    )


def least_bytes(case: Case) -> int:
    """Bytes that forward and backward cannot spare: hidden states and head read twice, gradients written once.

    >>> least_bytes(Case("log_prob", "hidden", "frozen", 0.5, 8, 2, 10, "float32", "cpu"))  # 4 tokens read, 8 written
    288
    """
    element = 4 if case.dtype == "float32" else 2
    read = 2 * (case.kept * (1 + case.needs_reference) + case.vocabulary)
    written = case.tokens + (case.vocabulary if case.head == "trainable" else 0)
    return element * case.hidden * (read + written)


def memory(results: Sequence[Result]) -> Markup | None:
    """Extra memory over V where all else is the same; None where no case was measured at two sizes or more."""
    numbers = [r for r in results if r.measurement.peak_bytes and r.case.source == "hidden"]
    kinds = Counter(_but_vocabulary(case) for case in dict.fromkeys(r.case for r in numbers))
    if not kinds or kinds.most_common(1)[0][1] < 2:
        return None
    kind = kinds.most_common(1)[0][0]
    points: dict[str, list[tuple[float, float]]] = {}
    for r in numbers:
        if _but_vocabulary(r.case) == kind:
            points.setdefault(r.measurement.implementation, []).append(
                (r.case.vocabulary, r.measurement.peak_bytes / 1e6)
            )
    operation, head, _, tokens, hidden, _ = kind
    return log_plot(
        points,
        (),
        x_label="V",
        y_label=f"MB beyond inputs and gradients ({operation}, {head} head, N {tokens}, D {hidden})",
        title="Extra memory of each implementation against the size of the vocabulary",
        joined=True,
    )


def _but_vocabulary(case: Case) -> tuple[str, str, float, int, int, str]:
    return case.operation, case.head, case.ignored, case.tokens, case.hidden, case.dtype
