"""Scales, ticks and escaping of plots."""

from __future__ import annotations

import pytest

from lightning_unlearn.report import svg


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 7, [0, 1, 2, 3, 4, 5, 6, 7]),
        (-3.2, 4.1, [-4, -3, -2, -1, 0, 1, 2, 3, 4, 5]),
        (0, 31_000, [0, 5000, 10000, 15000, 20000, 25000, 30000, 35000]),
        (0, 3e-6, [0, 5e-7, 1e-6, 1.5e-6, 2e-6, 2.5e-6, 3e-6]),
    ],
)
def test_ticks_are_round_and_cover_the_range(low, high, expected):
    assert svg.ticks(low, high) == pytest.approx(expected)


def test_ticks_of_an_empty_range_still_span_something():
    found = svg.ticks(2.0, 2.0)
    assert found[0] < 2.0 < found[-1]


def test_scale_may_run_downwards():
    scale = svg.Scale(0, 1, 200, 20)
    assert (scale(0), scale(0.5), scale(1)) == (200, 110, 20)


def test_texts_are_escaped():
    drawing = svg.svg(svg.text(0, 0, "<b>&", "tick"), label='a "quote"')
    assert "&lt;b&gt;&amp;" in drawing
    assert 'aria-label="a &#34;quote&#34;"' in drawing


def test_path_and_line():
    assert svg.path([(0, 1), (2.345, 3)], "line") == '<path d="M0 1 L2.35 3" class="line"/>'
    assert svg.line(0, 0, 1, 1, "grid") == '<line x1="0" y1="0" x2="1" y2="1" class="grid"/>'


@pytest.mark.parametrize(
    ("shape", "element"), [("circle", "circle"), ("ring", "circle"), ("dot", "circle"), ("diamond", "path")]
)
def test_markers_have_titles(shape, element):
    drawn = svg.marker(10, 20, shape, "mark", "After <x>")
    assert drawn.startswith(f"<{element} ")
    assert "<title>After &lt;x&gt;</title>" in drawn
