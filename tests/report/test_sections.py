"""Key figures, scores, cost and settings as the template gets them."""

from __future__ import annotations

from pathlib import Path

from lightning_unlearn.report.runs import Run
from lightning_unlearn.report.sections import balance, cost, failures, figures, missing, settings


def test_figures_need_a_value_after_training():
    run = Run(
        path=Path("run"),
        metrics={
            "before": {"forget/rougeL_recall": 1.0, "retain/probability": 0.9},
            "after": {"forget/rougeL_recall": 0.1},
        },
    )
    (figure,) = figures(run)
    assert figure["label"] == "Forget set: recall"
    assert figure["aim"] == "lower"
    assert figure["values"] == {"before": 1.0, "after": 0.1, "retrained": None}


def test_figures_of_muse():
    run = Run(Path("r"), metrics={"before": {"muse/utility": 0.5}, "after": {"muse/utility": 0.25}})
    assert [(one["label"], one["aim"]) for one in figures(run)] == [("Utility (MUSE)", "higher")]


def test_figures_that_rest_on_substitutes_say_so():
    metrics = {"after": {"closer_look/model_utility": 0.7}}
    assert figures(Run(Path("r"), metrics=metrics))[0]["label"] == "Model utility"
    substituted = Run(Path("r"), metrics=metrics, substitutes={"entailment": "containment"})
    assert figures(substituted)[0]["label"] == "Model utility (with substitutes)"


def test_a_figure_has_the_interval_after_training():
    key = "forget/rougeL_recall"
    run = Run(Path("r"), metrics={"after": {key: 0.1}}, intervals={"after": {key: (0.08, 0.125)}})
    assert figures(run)[0]["interval"] == "0.080 to 0.125"
    assert figures(Run(Path("r"), metrics=run.metrics))[0]["interval"] == ""


def test_balance_has_the_three_scores_and_their_mean():
    parts = ("memorization", "privacy", "utility", "harmonic_mean")
    values = {f"unlearning_score/{part}": place / 10 for place, part in enumerate(parts, 1)}
    found = balance(Run(Path("r"), metrics={"before": {"unlearning_score/utility": 1.0}, "after": values}))
    labels = ["Memorisation", "Privacy", "Utility", "Harmonic mean of the three"]
    assert [(one["label"], one["values"]["after"]) for one in found] == list(
        zip(labels, [0.1, 0.2, 0.3, 0.4], strict=True)
    )
    assert found[2]["values"]["before"] == 1.0
    assert balance(Run(Path("r"), metrics={"after": {"model_utility": 0.5}})) == []


def test_what_could_not_be_computed_says_what_it_needs():
    needed = {"after": {"unlearning_score/privacy": "a holdout"}, "before": {"unlearning_score/utility": "more"}}
    assert missing(Run(Path("r"), missing=needed)) == [("Privacy", "a holdout")]


def test_failures_are_named_with_their_question_where_it_is_known():
    row = {"stage": "after", "set": "forget", "index": 3, "question": "Q" * 500}
    failed = [{"set": "forget", "index": 3, "why": "NaN"}, {"set": "mine", "index": 0, "why": "too long"}]
    found = failures(Run(Path("r"), samples={"after": [row]}, failed={"after": failed}))
    assert found[0] == {"stage": "after", "set": "Forget", "index": "3", "why": "NaN", "question": "Q" * 160 + "…"}
    assert (found[1]["set"], found[1]["question"]) == ("mine", "")
    assert failures(Run(Path("r"))) == []


def test_cost_from_the_card():
    card = {
        "time": {"train_seconds": 7.0, "wall_seconds": 65.0},
        "tokens": {"seen": 2000, "per_second": 285.7},
        "memory": {"peak_gb": 1.5, "kind": "process"},
        "parameters": {"trainable": 10, "total": 1000},
    }
    assert cost(Run(Path("r"), card=card)) == [
        ("Training", "7.0 s"),
        ("In all, with evaluation", "1 min 5 s"),
        ("Tokens", "2,000"),
        ("Tokens per second", "286"),
        ("Peak memory (process)", "1.50 GB"),
        ("Parameters trained", "10"),
        ("Parameters", "1,000"),
    ]


def test_speed_falls_back_on_the_curve():
    curves = {"train/tokens_per_second": [(1, 100.0), (2, 900.0), (3, 300.0)]}
    assert cost(Run(Path("r"), curves=curves)) == [("Tokens per second", "300")]
    assert cost(Run(Path("r"))) == []


def test_settings_are_flat_and_skip_what_is_absent():
    card = {"method": {"class": "NPO", "hyperparameters": {"beta": 0.1}}, "data": None, "steps": 5}
    assert settings(Run(Path("r"), card=card)) == [{"name": "Method", "rows": [("class", "NPO"), ("beta", "0.1")]}]
