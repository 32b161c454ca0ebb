"""Opens reports in a real browser: at phone and desktop width, light, dark and printed, and looks at the pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_unlearn.report import write_comparison, write_report, write_sequence
from tests.report.browser import DESKTOP, PHONE, brightness, browse, drawn, measure, needs_browser, photograph
from tests.report.fake_run import write_run
from tests.report.fake_stress import write_stress

pytestmark = needs_browser


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("runs") / "me_gd"))


@pytest.fixture(scope="module")
def stressed(tmp_path_factory) -> Path:
    return write_report(write_stress(write_run(tmp_path_factory.mktemp("stressed") / "me_gd")))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    runs = [write_run(folder / f"run_with_a_long_name_{place}", shift=place / 10) for place in range(3)]
    return write_comparison(runs, folder / "comparison.html")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory) -> Path:
    """A comparison of two runs, of which one was attacked."""
    folder = tmp_path_factory.mktemp("attacked")
    runs = [write_stress(write_run(folder / "attacked")), write_run(folder / "not_attacked", shift=0.1)]
    return write_comparison(runs, folder / "comparison.html")


@pytest.fixture(scope="module")
def sequence(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sequence")
    for place in (1, 2, 3):
        write_run(folder / f"request_{place:02d}", shift=place / 10)
    return write_sequence(folder)


@pytest.mark.parametrize("page", ["report", "stressed", "comparison", "attacked", "sequence"])
@pytest.mark.parametrize("width", [320, PHONE, 768, DESKTOP])
def test_fits_its_width(request, tmp_path, page, width):
    found = measure(tmp_path, request.getfixturevalue(page), width)
    assert found["inner"] == width
    assert found["wide"] == []
    assert found["scroll"] <= width
    assert found["smallest"] >= 8.4  # pixels of the smallest letters in a plot
    assert all(height > 150 for height in found["plots"])


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_light_and_dark_pictures(tmp_path, report, width):
    light, console = photograph(tmp_path, report, width)
    dark, dark_console = photograph(tmp_path, report, width, "--blink-settings=preferredColorScheme=0")
    assert console == dark_console == []
    assert light.width == width
    assert brightness(light) > 235
    assert brightness(dark) < 45
    for picture in (light, dark):
        assert 0.03 < drawn(picture) < 0.6
        assert len(picture.getcolors(maxcolors=2**24)) > 50


def test_comparison_picture(tmp_path, comparison):
    picture, console = photograph(tmp_path, comparison, DESKTOP)
    assert console == []
    assert drawn(picture) > 0.02


SORT = """<script>
const head = document.querySelectorAll(".sortable thead th");
const marks = () => [...document.querySelectorAll(".sortable .number")].map(mark => mark.textContent).join("");
const click = place => {
  head[place].querySelector("button").click();
  return marks() + head[place].ariaSort;
};
const place = name => [...head].findIndex(cell => cell.textContent.startsWith(name));
const recall = place("Forget: ROUGE-L"), kept = place("Retain: ROUGE-L");
const seen = [click(recall), click(recall), click(kept), click(0), document.querySelectorAll("[aria-sort]").length];
document.body.dataset.sorted = seen.join(" ");
</script>"""


def test_a_click_sorts_the_leaderboard(tmp_path, comparison):
    """Three runs, of which each remembers more and keeps less than the one before."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", comparison.read_text())
    (tmp_path / "page.html").write_text(text.replace("</body>", SORT + "</body>"))
    printed = browse(tmp_path, tmp_path / "page.html", DESKTOP, "--dump-dom").stdout
    found = re.search(r'data-sorted="([^"]*)"', printed)
    assert found, printed[-500:]
    assert found[1] == "123ascending 321descending 123descending 123ascending 1"
    first = re.search(r'<table class="scores sortable">.*?<tbody>(.*?)</tbody>', printed, re.DOTALL)
    assert "Starting model" in first[1]  # stays above


def test_every_table_is_sorted_by_itself(tmp_path, attacked):
    """The run that was not attacked stays below in the second table, and forgets less in the first."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", attacked.read_text())
    script = """<script>
const boards = [...document.querySelectorAll(".sortable")];
const marks = () => boards.map(board => [...board.querySelectorAll(".number")].map(mark => mark.textContent).join(""));
const click = (board, name) => [...boards[board].querySelectorAll("thead button")].find(
  button => button.textContent.startsWith(name)).click();
const seen = [];
for (const [board, name] of [[0, "Run"], [0, "Run"], [1, "Hidden"], [1, "Hidden"], [1, "Run"], [1, "Run"]]) {
  click(board, name);
  seen.push(marks().join("|"));
}
document.body.dataset.sorted = seen.join(" ");
</script>"""
    (tmp_path / "page.html").write_text(text.replace("</body>", script + "</body>"))
    found = re.search(r'data-sorted="([^"]*)"', browse(tmp_path, tmp_path / "page.html", DESKTOP, "--dump-dom").stdout)
    assert found
    assert found[1] == "12|12 21|12 21|12 21|12 21|12 21|21"


def test_colors_of_the_plots_arrive(tmp_path, report):
    picture, _ = photograph(tmp_path, report, DESKTOP)
    colors = {color for _, color in picture.getcolors(maxcolors=2**24)}
    assert {(0xC2, 0x44, 0x1C), (0x43, 0x38, 0xCA), (0x9A, 0x67, 0x00)} <= colors  # forget, after, retrained


def test_prints(tmp_path, report):
    target = tmp_path / "report.pdf"
    browse(tmp_path, report, DESKTOP, f"--print-to-pdf={target}")
    assert target.read_bytes().startswith(b"%PDF-")
    assert target.stat().st_size > 30_000


def test_the_console_is_heard(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><script>undefinedFunction()</script>")
    assert photograph(tmp_path, page, DESKTOP)[1]


def test_a_page_that_is_too_wide_is_noticed(tmp_path, report):
    page = tmp_path / "wide.html"
    page.write_text(report.read_text().replace("<header>", '<header><div style="width:900px">x</div>'))
    found = measure(tmp_path, page, PHONE)
    assert found["scroll"] > PHONE
    assert found["wide"]
