"""Plots put their points where the numbers say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from lightning_unlearn.report import svg
from lightning_unlearn.report.plots import Line, Point, distribution, line_chart, shares, thin, trade_off


def parsed(drawing: str) -> ET.Element:
    return ET.fromstring(drawing)  # well-formed, or this raises


def paths(drawing: str, css: str) -> list[list[tuple[float, float]]]:
    found = [element for element in parsed(drawing).iter("path") if element.get("class") == css]
    numbers = [[float(number) for number in re.findall(r"-?[\d.]+", element.get("d", ""))] for element in found]
    return [list(zip(row[::2], row[1::2], strict=True)) for row in numbers]


def test_thin_averages_neighbours_and_keeps_short_lines():
    points = [(float(step), float(step % 2)) for step in range(1000)]
    thinned = thin(points, most=100)
    assert len(thinned) == 100
    assert thinned[0] == (4.5, 0.5)
    assert thin(points[:5]) == points[:5]
    assert thin([]) == []


def test_line_chart_places_points():
    drawing = line_chart([Line("forget", "forget", [(0, 0.0), (10, 1.0)])], y_label="y", label="chart", unit_range=True)
    left, right, top, bottom = svg.LEFT, svg.WIDTH - svg.RIGHT, svg.TOP, svg.HEIGHT - svg.BOTTOM
    assert paths(drawing, "line forget") == [[(left, bottom), (right, top)]]
    assert "forget, step 10: 1.000" in drawing


def test_intervals_stand_at_their_points_and_fit_into_the_plot():
    line = Line("a", "forget", [(0, 1.0), (2, 2.0)], [(2, 0.0, 4.0)])
    (bar,) = [
        e for e in parsed(line_chart([line], y_label="y", label="l")).iter("line") if "interval" in e.get("class", "")
    ]
    right, top, bottom = svg.WIDTH - svg.RIGHT, svg.TOP, svg.HEIGHT - svg.BOTTOM
    assert [float(bar.get(name, "")) for name in ("x1", "y1", "x2", "y2")] == [right, bottom, right, top]


def test_steps_are_whole():
    drawing = line_chart([Line("a", "loss", [(0, 0.0), (2, 1.0)])], y_label="y", label="two steps", unit_range=True)
    texts = [element.text for element in parsed(drawing).iter("text")]
    assert [text for text in texts if text not in ("0.25", "0.5", "0.75", "0", "1")].count("2") == 1
    assert "1.5" not in texts


def test_line_chart_of_one_point_and_of_negative_values():
    assert "step 3" in line_chart([Line("a", "loss", [(3, 2.0)])], y_label="y", label="one")
    texts = [
        element.text
        for element in parsed(line_chart([Line("a", "loss", [(0, -3.0), (1, -1.0)])], y_label="y", label="n")).iter(
            "text"
        )
    ]
    assert "0" in texts
    assert "-3" in texts


def test_trade_off_places_points_and_the_way():
    points = [Point("Before", "before", "ring", 0.7, 0.1), Point("After", "after", "circle", 0.7, 0.9)]
    drawing = trade_off(points, [(0.7, 0.1), (0.6, 0.5), (0.7, 0.9)], x_label="Utility", y_label="Efficacy")
    x = svg.LEFT + 0.7 * (svg.WIDTH - svg.RIGHT - svg.LEFT)
    circles = {element.get("class"): element for element in parsed(drawing).iter("circle")}
    assert float(circles["mark after"].get("cx", 0)) == pytest.approx(x, abs=0.01)
    assert float(circles["mark after"].get("cy", 0)) < float(circles["mark before"].get("cy", 0))  # forgetting is up
    assert len(paths(drawing, "line trail")[0]) == 3
    assert "Before: 0.700 and 0.100" in parsed(drawing).get("aria-label", "")


def test_names_of_close_points_do_not_overlap():
    points = [
        Point(name, "after", "circle", 0.7, 0.9 - place / 1000) for place, name in enumerate(["One", "Two", "Three"])
    ]
    texts = list(parsed(trade_off(points, [], x_label="x", y_label="y")).iter("text"))
    places = [
        (text.get("x"), text.get("y"), text.get("class")) for text in texts if "point-name" in text.get("class", "")
    ]
    assert len(set(places)) == 3


def test_names_of_a_crowd_in_a_corner_are_all_readable():
    """Runs that forgot nothing lie at the lower right, where half of the places are outside the plot."""
    names = ["Starting", "Starting", "1 NPO", "2 DPO", "3 NPO", "4 GradientDifference"]
    points = [Point(name, "after", "circle", 0.96 + i / 1000, 0.05) for i, name in enumerate(names)]
    texts = parsed(trade_off(points, [], x_label="x", y_label="y")).iter("text")
    heights = sorted(float(text.get("y", 0)) for text in texts if "point-name" in text.get("class", ""))
    assert all(below - above >= 13 for above, below in pairwise(heights))


def test_shares_sum_to_one_and_hold_what_lies_outside():
    found = shares([-1.0, 0.05, 0.5, 1.0, 7.0], 1.0, bins=10)
    assert found == pytest.approx([0.4, 0, 0, 0, 0, 0.2, 0, 0, 0, 0.4])


def test_distribution_draws_a_step_for_each_bin():
    drawing = distribution({"before": [0.99] * 3 + [0.01]}, high=1.0, x_label="probability", label="p")
    (outline,) = paths(drawing, "area before")
    assert len(outline) == 2 + 2 * 20
    tops = [y for _, y in outline]
    assert min(tops) == tops[-2]  # the last bin, three quarters of the tokens, is the highest
