"""A real browser that lays pages out, runs them and takes pictures."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

Image = pytest.importorskip("PIL.Image", reason="pillow, which looks at the pictures, is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--enable-logging=stderr", "--v=0"),
]
PHONE, DESKTOP = 375, 1200
needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"no browser found: none of {', '.join(NAMES)} is installed")

# runs in a copy of the page: how wide it got, and which elements stick out although nothing clips or scrolls them
MEASURE = """<script>
addEventListener("load", () => {
  const inside = element => element.closest(".wide") && element.tagName !== "CAPTION"; // captions are never cut off
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
