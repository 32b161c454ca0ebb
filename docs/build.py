"""Build the documentation: every page of docs/, the README, and the API from the docstrings.

Usage: python docs/build.py [FOLDER]
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render
from pdoc.render_helpers import to_html

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "index": ROOT / "README.md",
    "guide": ROOT / "docs/guide.md",
    "objectives": ROOT / "docs/objectives.md",
    "contributing": ROOT / "CONTRIBUTING.md",
}
FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem; color: #222 }}
pre {{ background: #f5f5f5; padding: .75rem; overflow-x: auto }}
code {{ font-size: .9em }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
td, th {{ border: 1px solid #ccc; padding: .3rem .6rem; text-align: left }}
</style></head>
<body><nav>
<a href="index.html">Overview</a> · <a href="guide.html">Guide</a> · <a href="objectives.html">Objectives</a> ·
<a href="contributing.html">Contributing</a> ·
<a href="api/lightning_unlearn.html">API</a> · <a href="api/unlearn_kernels.html">Kernels</a>
</nav>
{body}</body></html>
"""


def build(output: Path) -> None:
    """Write the site into a folder."""
    output.mkdir(parents=True, exist_ok=True)
    for name, source in PAGES.items():
        text = source.read_text(encoding="utf-8")
        title = re.search(r"^# (.+)", text, re.MULTILINE)[1]
        (output / f"{name}.html").write_text(FRAME.format(title=title, body=to_html(text)), encoding="utf-8")
    warnings.filterwarnings("ignore", "Error parsing type annotation", module="pdoc")  # written out as it stands
    pdoc.render.configure(docformat="google", math=False)
    pdoc.pdoc("lightning_unlearn", "unlearn_kernels", output_directory=output / "api")


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/docs"))
