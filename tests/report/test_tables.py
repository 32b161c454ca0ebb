"""Leaderboards as LaTeX, Markdown and CSV: escaped, bold where best, with directions and seeds."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from lightning_unlearn.report.leaderboard import Row
from lightning_unlearn.report.runs import Run
from lightning_unlearn.report.tables import comma_separated, full_name, latex, markdown

KEYS = ["forget/probability", "forget_quality", "privacy/loss_auc"]
SPITEFUL = r"a_b & 50% of $x^2~ {c} \d #1 <e> | [f]* `g` – −"


def run(*values: float) -> Run:
    return Run(Path("r"), metrics={"after": dict(zip(KEYS, values, strict=True))})


def row(name: str, *runs: Run, mean: Run | None = None) -> Row:
    return Row(mean or runs[0], "after", name, "folder", runs)


START = Row(run(0.9, 1.8e-21, 1.0), "after", "Starting model")
ROWS = [START, row("NPO", run(0.25, 0.5, 0.3)), row("DPO", run(0.125, 3e-4, math.nan))]


def test_latex():
    assert latex(ROWS, KEYS, {}) == "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{tabular}{lrrr}",
            r"\toprule",
            r"Method & Forget: Probability $\downarrow$ & Forget quality (p-value) $\uparrow$ & LOSS: AUC \\",
            r"\midrule",
            r"Starting model & 0.900 & 1.8$\cdot 10^{-21}$ & 1.000 \\",
            r"\midrule",
            r"NPO & 0.250 & \textbf{0.500} & 0.300 \\",
            r"DPO & \textbf{0.125} & 3.0$\cdot 10^{-4}$ & -- \\",
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def test_markdown():
    assert markdown(ROWS, KEYS, {}).splitlines() == [
        "| Method | Forget: Probability ↓ | Forget quality (p-value) ↑ | LOSS: AUC |",
        "| --- | ---: | ---: | ---: |",
        "| Starting model | 0.900 | 1.8e-21 | 1.000 |",
        "| NPO | 0.250 | **0.500** | 0.300 |",
        "| DPO | **0.125** | 3.0e-04 | – |",
    ]


def test_csv_has_every_digit():
    third = row("NPO", run(1 / 3, 0.5, math.nan))
    found = list(csv.reader(io.StringIO(comma_separated([START, third], KEYS[::2], {}))))
    assert found == [
        [
            *("name", "runs", "seeds"),
            *("forget/probability", "forget/probability std", "privacy/loss_auc", "privacy/loss_auc std"),
        ],
        ["Starting model", "", "", "0.9", "", "1.0", ""],
        ["NPO", "folder", "1", repr(1 / 3), "", "", ""],
    ]


def test_several_seeds_have_their_number_and_spread():
    # 0.1 and 0.3: mean 0.2, standard deviation 0.2 / sqrt(2) = 0.141
    seeds = row("NPO", run(0.1, 0.5, 0.5), run(0.3, 0.5, 0.5), mean=run(0.2, 0.5, 0.5))
    rows = [seeds, row("DPO", run(0.4, 0.1, 0.5))]
    assert r"NPO & 2 & \textbf{0.200} $\pm$ 0.141 & \textbf{0.500} $\pm$ 0.000 & 0.500 $\pm$ 0.000 \\" in latex(
        rows, KEYS, {}
    )
    assert r"DPO & 1 & 0.400 & 0.100 & 0.500 \\" in latex(rows, KEYS, {})
    assert "| NPO | 2 | **0.200** ± 0.141 |" in markdown(rows, KEYS, {})
    assert "| Method | Seeds |" in markdown(rows, KEYS, {})
    line = comma_separated(rows, KEYS[:1], {}).splitlines()[1]
    assert line.startswith("NPO,folder,2,0.2,0.1414")


def test_latex_escapes_every_character_that_it_reads():
    written = latex([row(SPITEFUL, run(0.1, 0.2, 0.3))], KEYS, {})
    name = next(line for line in written.splitlines() if line.startswith("a")).partition(" & 0.100")[0]
    assert name == (
        r"a\_b \& 50\% of \$x\textasciicircum{}2\textasciitilde{} \{c\} \textbackslash{}d \#1 "
        r"\textless{}e\textgreater{} \textbar{} [f]* `g` -- $-$"
    )


def test_markdown_and_csv_escape_what_they_read():
    rows = [row(SPITEFUL + '\n"h", i', run(0.1, 0.2, 0.3))]
    assert r"| a\_b & 50% of $x^2\~ {c} \\d #1 \<e\> \| \[f\]\* \`g\` – −" in markdown(rows, KEYS, {})
    assert len(markdown(rows, KEYS, {}).splitlines()) == 3
    assert next(csv.DictReader(io.StringIO(comma_separated(rows, KEYS, {}))))["name"] == SPITEFUL + '\n"h", i'


def test_substitutes_are_named():
    one = Run(Path("r"), metrics={"after": {"retain/entailment": 0.5}})
    arguments = ([row("NPO", one)], ["retain/entailment"], {"entailment": "word overlap"})
    assert "Retain: word overlap (substitute) ↑" in markdown(*arguments)
    assert "retain/entailment (word overlap)" in comma_separated(*arguments)


@pytest.mark.parametrize(("names", "told"), [(("NPO", "DPO"), "NPO"), (("NPO", "NPO"), "NPO (folder)")])
def test_folders_tell_rows_of_one_method_apart(names, told):
    rows = [row(name, run(0.1, 0.2, 0.3)) for name in names]
    assert full_name(rows[0], rows) == told


def test_what_attacks_bring_back_has_its_verdict_beside_it():
    def attacked(share: float) -> Run:
        found = {"curves": {"unlearned": [{"x": 0}]}, "recovered": {"share": share, "verdict": "exposed"}}
        after = {"stress/prefixes": share} if share else {}
        return Run(Path("r"), metrics={"after": after}, stress={"prefixes": found} if share else {})

    rows = [Row(attacked(0.0), "after", "Starting model"), row("NPO", attacked(0.5)), row("DPO", attacked(0.0))]
    key = "stress/prefixes"
    assert markdown(rows, [key], {}).splitlines()[2:] == [
        "| Starting model | – |",
        "| NPO | 0.500 (exposed) |",
        "| DPO | not tested |",
    ]
    assert r"NPO & 0.500 (exposed) \\" in latex(rows, [key], {})
    assert list(csv.reader(io.StringIO(comma_separated(rows, [key], {})))) == [
        ["name", "runs", "seeds", key, f"{key} std", f"{key} verdict"],
        ["Starting model", "", "", "", "", ""],
        ["NPO", "folder", "1", "0.5", "", "exposed"],
        ["DPO", "folder", "1", "", "", "not tested"],
    ]
