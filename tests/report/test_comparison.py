"""Several runs in one table and one plot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lightning_unlearn.report import read_run, write_comparison
from lightning_unlearn.report.comparison import FORMS, choose_columns, headline, render_comparison
from lightning_unlearn.report.leaderboard import leaderboard
from lightning_unlearn.report.runs import Run
from tests.report.fake_run import write_run
from tests.report.fake_stress import write_stress
from tests.report.test_page import Outline

OTHER = "lightning_unlearn.objectives.answer_preservation.AnswerPreservation"


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    return [write_run(tmp_path / "me_gd"), write_run(tmp_path / "idk_ap", shift=0.14, method=OTHER)]


def run(name: str, utility: float, efficacy: float) -> Run:
    scores = {"closer_look/model_utility": utility, "closer_look/forget_efficacy": efficacy}
    return Run(Path(name), metrics={"after": scores})


def test_one_table_one_plot(runs, tmp_path):
    path = write_comparison(runs, tmp_path / "deep/comparison.html")
    html = path.read_text()
    tags = [tag for tag, _ in Outline(html).tags]
    assert tags.count("svg") == 1
    assert tags.count("table") == 1
    assert html.count("<strong>Starting model</strong></th>") == 1  # the same for both runs, so it stands there once
    assert html.count("<strong>Retrained model</strong></th>") == 1
    assert "MaximizeEntropy" in html
    assert "AnswerPreservation" in html
    assert "0.192" in html  # forget recall of the second run
    assert "http" not in html.replace("http-equiv", "")


def test_different_starting_models_are_told_apart(runs):
    metrics = json.loads((runs[1] / "metrics.json").read_text())
    metrics["before"]["model_utility"] = 0.5
    (runs[1] / "metrics.json").write_text(json.dumps(metrics))
    html = render_comparison([read_run(path) for path in runs])
    assert html.count("<strong>Starting model</strong>") == 2
    assert "of me_gd" in html
    assert "of idk_ap" in html


def test_headline_names_the_best_of_each_axis():
    def said(*runs: Run) -> str:
        return headline(leaderboard(runs))

    assert said(run("a", 0.7, 0.5), run("b", 0.6, 0.9)) == "b forgets most (0.900); a keeps most (0.700)."
    assert said(run("a", 0.7, 0.9), run("b", 0.6, 0.5)) == "a forgets most (0.900) and keeps most (0.700)."
    assert said(run("a", 0.7, 0.9), Run(Path("b"))) == "2 runs side by side."
    assert said(Run(Path("b"))) == "b alone."


def test_runs_without_common_scores_still_compare(tmp_path):
    html = render_comparison([run("a", 0.7, 0.9), Run(Path("b"), metrics={"after": {"model_utility": 0.3}})])
    assert "No pair of scores that this plot needs" in html
    assert "No retrained model was given" in html


def test_runs_with_different_substitutes_are_warned_about(runs):
    metrics = json.loads((runs[1] / "metrics.json").read_text())
    (runs[1] / "metrics.json").write_text(json.dumps({**metrics, "substitutes": {}}))
    assert "do not use the same substitutes" in render_comparison([read_run(path) for path in runs])


def test_the_best_is_bold_and_the_models_compared_with_take_no_part(runs):
    html = render_comparison([read_run(path) for path in runs])
    assert '<b class="best">0.052</b>' in html  # forget recall of the first run
    assert '<td data-value="0.161">0.161</td>' in html  # of the retrained model
    assert '<b class="best">0.192</b>' not in html


def test_seeds_are_one_row_with_mean_and_spread(tmp_path):
    found = [write_run(tmp_path / f"seed{seed}", shift=seed / 10, seed=seed) for seed in (0, 1)]
    html = render_comparison([read_run(path) for path in found])
    # forget recall 0.052 and 0.152: mean 0.102, standard deviation 0.1 / sqrt(2)
    assert "0.102<small>± 0.071</small>" in html
    assert "2 seeds: seed0, seed1" in html
    assert "<span>2 runs</span>" in html
    assert "mean, and ± standard deviation" in html


def test_what_attacks_bring_back_is_a_column_and_a_table(runs):
    assert "No run was put under attack" in render_comparison([read_run(path) for path in runs])
    write_stress(runs[0])
    html = render_comparison([read_run(path) for path in runs])
    assert html.count("Comes back: Strongest attack") == 1
    assert 'data-value="0.71">0.710<small class="told">exposed: hidden states of each layer</small>' in html
    assert "Exposed</span>" in html.partition("Leaderboard")[0]  # a badge beside the verdict on the scores
    board = html.partition("What attacks bring back")[2]
    assert "Hidden states of each layer" in board
    assert 'data-value="-0.08">-0.080<small class="told">holds</small>' in board
    assert board.count("not tested") == 6  # attacks on the other run
    assert "No run was put under attack" not in html
    assert "not put under the same attacks" not in html
    write_stress(runs[1])
    (runs[1] / "stress/prefixes.json").unlink()
    assert "not put under the same attacks" in render_comparison([read_run(path) for path in runs])


def test_attacks_are_chosen_as_columns_too(runs):
    write_stress(runs[0])
    found = [read_run(path) for path in runs]
    keys = choose_columns(leaderboard(found), None)
    assert keys[4] == "stress/strongest"
    assert keys[-2:] == ["stress/best_of_n", "stress/layer_probe"]
    html = render_comparison(found, ["stress/layer_probe"])
    assert "What attacks bring back" not in html
    assert "Hidden states of each layer" in html


def test_of_many_runs_the_plot_names_those_that_no_other_beats_on_both_axes():
    """Utility rises with the place; efficacy falls up to place 3, and is low from there on, but for the last."""
    many = [run(f"run{place}", 0.5 + place / 100, 0.9 - place / 10) for place in range(4)]
    many += [run(f"run{place}", 0.5 + place / 100, 0.1) for place in range(4, 12)]
    html = render_comparison(many)
    assert re.findall(r'class="point-name \w+">([^<]*)</text>', html) == ["1", "2", "3", "4", "12"]
    assert html.count('class="mark after"') == 12
    assert "6 run5: 0.550, 0.100" in html  # under the pointer
    assert 'class="runs many"' in html


def test_chosen_columns():
    rows = leaderboard([run("a", 0.7, 0.5), run("b", 0.6, 0.9)])
    assert choose_columns(rows, None) == ["closer_look/forget_efficacy", "closer_look/model_utility"]
    assert choose_columns(rows, ["closer_look/model_utility"]) == ["closer_look/model_utility"]
    with pytest.raises(ValueError, match=r"columns must be scores of the runs, got 'model_utilty'; there are: closer"):
        choose_columns(rows, ["model_utilty"])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_every_run(runs, tmp_path, form):
    written = write_comparison(runs, tmp_path / "table", form=form, columns=["forget/rougeL_recall"]).read_text()
    for words in ("MaximizeEntropy", "AnswerPreservation", "0.052", "0.192", "0.161"):
        assert words in written
    assert "0.995" not in written  # recall of the retain set, which was not asked for


def test_nothing_to_compare(tmp_path):
    with pytest.raises(ValueError, match="runs: expected one run folder or more, got none"):
        write_comparison([], tmp_path / "comparison.html")
    with pytest.raises(ValueError, match="which is not a folder"):
        write_comparison([tmp_path / "nowhere"], tmp_path / "comparison.html")
    with pytest.raises(ValueError, match="form must be one of html, latex, csv, markdown, got 'pdf'"):
        write_comparison([tmp_path], tmp_path / "comparison.html", form="pdf")
    with pytest.raises(ValueError, match="output must be a file, got the folder"):
        write_comparison([tmp_path], tmp_path)
    assert not (tmp_path / "comparison.html").exists()
