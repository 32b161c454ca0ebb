"""Dots lie where the numbers say, and do not hide each other."""

from __future__ import annotations

import pytest

from lightning_unlearn.report import svg
from lightning_unlearn.report.dots import LEFT, DotRow, dot_plot
from tests.report.test_plots import parsed

RIGHT = svg.WIDTH - svg.RIGHT


def test_dots_and_intervals_lie_on_the_axis():
    row = DotRow("LOSS", {"after": 0.25}, {"after": (0.0, 0.5)})
    drawing = parsed(dot_plot([row], x_label="AUC", label="attacks", middle=0.5))
    (dot,) = drawing.iter("circle")
    assert float(dot.get("cx", 0)) == pytest.approx(LEFT + (RIGHT - LEFT) / 4, abs=0.01)
    (whisker,) = [line for line in drawing.iter("line") if line.get("class") == "line after"]
    ends = [float(whisker.get(name, 0)) for name in ("x1", "x2")]
    assert ends == pytest.approx([LEFT, (LEFT + RIGHT) / 2], abs=0.01)
    (middle,) = [line for line in drawing.iter("line") if line.get("class") == "middle-line"]
    assert float(middle.get("x1", 0)) == pytest.approx((LEFT + RIGHT) / 2, abs=0.01)
    assert "LOSS, after: 0.250" in "".join(drawing.itertext())


def test_equal_values_of_stages_and_rows_do_not_hide_each_other():
    rows = [DotRow(name, dict.fromkeys(("before", "after"), 0.5)) for name in "ab"]
    heights = [float(dot.get("cy", 0)) for dot in parsed(dot_plot(rows, x_label="x", label="l")).iter("circle")]
    assert len(set(heights)) == 4
    assert heights == sorted(heights)


def test_without_a_middle_no_line_is_marked():
    assert "middle-line" not in dot_plot([DotRow("a", {"after": 0.5})], x_label="x", label="l")
