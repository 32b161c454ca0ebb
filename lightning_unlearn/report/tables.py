"""A leaderboard as text: LaTeX and Markdown for papers, CSV for other programs. Pure functions."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from itertools import chain

from lightning_unlearn.report.leaderboard import Row, best
from lightning_unlearn.report.recovered import is_recovered, told
from lightning_unlearn.report.words import better, column_label, number

LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "−": "$-$"},
}
LATEX_ARROWS = {"lower": r" $\downarrow$", "higher": r" $\uparrow$", "": ""}
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def latex(rows: Sequence[Row], columns: Sequence[str], substitutes: dict[str, str]) -> str:
    """A tabular with booktabs' rules: best of each column bold, spread over seeds, directions as arrows.

    Args:
        rows: of a leaderboard.
        columns: keys of the scores.
        substitutes: metric -> lexical measure that takes its place.
    """
    heads = [_latex_text(column_label(key, substitutes)) + LATEX_ARROWS[better(key)] for key in columns]
    body = _cells(rows, columns, _latex_text, _latex_number, lambda text: rf"\textbf{{{text}}}", r" $\pm$ ")
    seeds = ["Seeds"] if _has_seeds(rows) else []
    models = sum(not row.runs for row in rows)
    lines = [" & ".join(line) + r" \\" for line in body]
    if 0 < models < len(lines):
        lines.insert(models, r"\midrule")
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'r' * (len(seeds) + len(heads))}}}",
            r"\toprule",
            " & ".join(["Method", *seeds, *heads]) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def markdown(rows: Sequence[Row], columns: Sequence[str], substitutes: dict[str, str]) -> str:
    """A pipe table: best of each column bold, spread over seeds, directions as arrows; arguments as of `latex`."""
    seeds = ["Seeds"] if _has_seeds(rows) else []
    heads = [_markdown_text(column_label(key, substitutes)) + ARROWS[better(key)] for key in columns]
    rule = ["---", *("---:" for _ in (*seeds, *heads))]
    body = _cells(rows, columns, _markdown_text, str, lambda text: f"**{text}**", " ± ")
    return "".join(f"| {' | '.join(line)} |\n" for line in (["Method", *seeds, *heads], rule, *body))


def comma_separated(rows: Sequence[Row], columns: Sequence[str], substitutes: dict[str, str]) -> str:
    """Every digit, for programs: name, folders and number of seeds, then each score with its standard deviation.

    Columns bear the keys of `metrics.json`; a lexical measure's name stands behind the key of what it replaces. What an
    attack brought back has its verdict beside it.
    """
    names = [f"{key} ({by})" if (by := substitutes.get(key.rpartition("/")[2])) else key for key in columns]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = [
        [name, f"{name} std", *([f"{name} verdict"] if is_recovered(key) else [])]
        for name, key in zip(names, columns, strict=True)
    ]
    writer.writerow(["name", "runs", "seeds", *chain(*heads)])
    for row in rows:
        scores = [
            [row.value(key), row.spread(key), *([told(row.runs, key)] if is_recovered(key) else [])] for key in columns
        ]
        writer.writerow([row.name, row.where, len(row.runs) or None, *chain(*scores)])
    return stream.getvalue()


def _cells(
    rows: Sequence[Row],
    columns: Sequence[str],
    text: Callable[[str], str],
    figure: Callable[[str], str],
    bold: Callable[[str], str],
    plus_minus: str,
) -> list[list[str]]:
    """The cells of each row: name, number of seeds where a row has several, scores."""
    tops = {key: best(rows, key) for key in columns}

    def cell(row: Row, key: str) -> str:
        said, spread = number(row.value(key)), row.spread(key)
        shown = bold(figure(said)) if row.runs and said == tops[key] else figure(said)
        whole = shown if spread is None else f"{shown}{plus_minus}{figure(number(spread))}"
        verdict = text(told(row.runs, key))
        return whole if not verdict else verdict if row.value(key) is None else f"{whole} ({verdict})"

    several = _has_seeds(rows)
    seeds = [[str(len(row.runs) or "")] if several else [] for row in rows]
    return [
        [text(full_name(row, rows)), *count, *(cell(row, key) for key in columns)]
        for row, count in zip(rows, seeds, strict=True)
    ]


def full_name(row: Row, rows: Sequence[Row]) -> str:
    """A row's name, with its folders where another has the same name."""
    shared = sum(other.name == row.name for other in rows) > 1
    return f"{row.name} ({row.where})" if shared and row.where else row.name


def _has_seeds(rows: Sequence[Row]) -> bool:
    return any(len(row.runs) > 1 for row in rows)


def _latex_text(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_number(text: str) -> str:
    r"""A number as `words.number` prints it, in LaTeX.

    >>> [_latex_number(text) for text in ("0.500", "-0.500", "1.8e-21", "–")]
    ['0.500', '$-$0.500', '1.8$\\cdot 10^{-21}$', '--']
    """
    mantissa, _, power = text.partition("e")
    shown = _latex_text(re.sub(r"^-", "−", mantissa))
    return rf"{shown}$\cdot 10^{{{int(power)}}}$" if power else shown


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", " ".join(text.split()))
