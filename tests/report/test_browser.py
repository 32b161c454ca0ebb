"""Opens reports in a real browser: at phone and desktop width, light, dark and printed, and looks at the pictures."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lightning_unlearn.report import write_comparison, write_report
from tests.report.fake_run import write_run

Image = pytest.importorskip("PIL.Image", reason="pillow, which looks at the pictures, is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--enable-logging=stderr", "--v=0"),
]
PHONE, DESKTOP = 375, 1200

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser found: none of {', '.join(NAMES)} is installed")

# runs in a copy of the page: how wide it got, and which elements stick out although nothing clips or scrolls them
MEASURE = """<script>
addEventListener("load", () => {
  const inside = element => element.closest(".wide");
  const wide = [...document.querySelectorAll("body *")].filter(
    element => !inside(element) && element.getBoundingClientRect().right > innerWidth + 1);
  const small = [...document.querySelectorAll("svg text")].map(
    text => parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getBoundingClientRect().width / 360);
  document.body.dataset.measured = JSON.stringify({
    inner: innerWidth, scroll: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight,
    wide: wide.map(element => element.tagName + "." + element.className), smallest: Math.min(...small),
    plots: [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().height)});
});
</script>"""


def browse(folder: Path, page: Path, width: int, *flags: str, height: int = 1600) -> subprocess.CompletedProcess[str]:
    """Open a page with a profile of its own, and return what the browser printed."""
    assert BROWSER is not None
    profile = folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def measure(folder: Path, page: Path, width: int) -> dict:
    """Lay a page out in a frame as wide as the screen (browsers refuse windows as narrow as a phone) and measure it."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text()) + MEASURE
    frame = (
        f'<iframe id="f" style="width:{width}px;height:1600px;border:0" srcdoc="{html.escape(text)}"></iframe><script>'
        'addEventListener("load", () => { document.body.dataset.measured = '
        'document.getElementById("f").contentDocument.body.dataset.measured; });</script>'
    )
    harness = folder / "harness.html"
    harness.write_text(f"<!doctype html><body>{frame}</body>")
    printed = browse(folder, harness, 1600, "--dump-dom", "--virtual-time-budget=3000").stdout
    found = re.search(r'<body data-measured="([^"]*)"', printed)
    assert found, printed[-500:]
    return json.loads(html.unescape(found[1]))


def photograph(folder: Path, page: Path, width: int, *flags: str, height: int = 1600):
    """Take a picture of a page and return it with what the browser's console said."""
    target = folder / "picture.png"
    done = browse(folder, page, width, f"--screenshot={target}", *flags, height=height)
    with Image.open(target) as picture:
        return picture.convert("RGB"), re.findall(r"CONSOLE.*", done.stderr)


def brightness(picture) -> float:
    """Median brightness from 0 to 255: that of the paper."""
    histogram = picture.convert("L").histogram()
    half, total = sum(histogram) / 2, 0
    for value, count in enumerate(histogram):
        total += count
        if total >= half:
            return value
    return 255


def drawn(picture) -> float:
    """Share of pixels that differ from the paper."""
    paper = picture.getpixel((2, 2))
    colors = {color: count for count, color in picture.getcolors(maxcolors=2**24)}
    return 1 - colors[paper] / sum(colors.values())


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("runs") / "me_gd"))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    runs = [write_run(folder / f"run_with_a_long_name_{place}", shift=place / 10) for place in range(3)]
    return write_comparison(runs, folder / "comparison.html")


@pytest.mark.parametrize("page", ["report", "comparison"])
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
