"""Several runs in one table and one plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_unlearn.report import read_run, write_comparison
from lightning_unlearn.report.comparison import headline, render_comparison
from lightning_unlearn.report.runs import Run
from tests.report.fake_run import write_run
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
    assert html.count("Starting model</th>") == 1  # the same for both runs, so it stands there once
    assert html.count("Retrained model</th>") == 1
    assert "MaximizeEntropy" in html
    assert "AnswerPreservation" in html
    assert "0.192" in html  # forget recall of the second run
    assert "http" not in html.replace("http-equiv", "")


def test_different_starting_models_are_told_apart(runs):
    metrics = json.loads((runs[1] / "metrics.json").read_text())
    metrics["before"]["model_utility"] = 0.5
    (runs[1] / "metrics.json").write_text(json.dumps(metrics))
    html = render_comparison([read_run(path) for path in runs])
    assert html.count("Starting model") == 2
    assert "of me_gd" in html
    assert "of idk_ap" in html


def test_headline_names_the_best_of_each_axis():
    assert headline([run("a", 0.7, 0.5), run("b", 0.6, 0.9)]) == "b forgets most (0.900); a keeps most (0.700)."
    assert headline([run("a", 0.7, 0.9), run("b", 0.6, 0.5)]) == "a forgets most (0.900) and keeps most (0.700)."
    assert headline([run("a", 0.7, 0.9), Run(Path("b"))]) == "2 runs side by side."


def test_runs_without_common_scores_still_compare(tmp_path):
    html = render_comparison([run("a", 0.7, 0.9), Run(Path("b"), metrics={"after": {"model_utility": 0.3}})])
    assert "No pair of scores that this plot needs" in html
    assert "No retrained model was given" in html


def test_runs_with_different_substitutes_are_warned_about(runs):
    metrics = json.loads((runs[1] / "metrics.json").read_text())
    (runs[1] / "metrics.json").write_text(json.dumps({**metrics, "substitutes": {}}))
    assert "do not use the same substitutes" in render_comparison([read_run(path) for path in runs])


def test_nothing_to_compare(tmp_path):
    with pytest.raises(ValueError, match="runs: expected one run folder or more, got none"):
        write_comparison([], tmp_path / "comparison.html")
    with pytest.raises(ValueError, match="which is not a folder"):
        write_comparison([tmp_path / "nowhere"], tmp_path / "comparison.html")
    assert not (tmp_path / "comparison.html").exists()
