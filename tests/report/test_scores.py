"""The tables of scores: by protocol and set, with intervals, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_unlearn.report.runs import Run
from lightning_unlearn.report.scores import place, scores
from tests.report.fake_run import metrics


def outline(run: Run) -> dict[str, dict[str, list[str]]]:
    return {
        protocol["name"]: {table["name"]: [row["label"] for row in table["rows"]] for table in protocol["tables"]}
        for protocol in scores(run)
    }


def test_protocols_and_sets_stand_in_their_order_and_nothing_is_lost():
    keys = [
        *("mia/score", "model_utility", "retain/probability", "forget/entailment", "forgotten_1/probability"),
        *("forget/rougeL_recall", "forget/probability", "unlearning_score/privacy", "unlearning_score/memorization"),
        *(
            "privacy/min_k_0.2_auc",
            "privacy/loss_auc",
            "privacy/mine",
            "privacy/priv_leak",
            "general_ability/arc/acc",
            "muse/verbatim",
            "mine/probability",
        ),
    ]
    found = outline(Run(Path("r"), metrics={"after": dict.fromkeys(keys, 0.5)}))
    assert found == {
        "Memorisation, privacy and utility": {"Overall": ["Memorisation", "Privacy"]},
        "TOFU": {
            "Forget": ["ROUGE-L recall", "Probability"],
            "Retain": ["Probability"],
            "Forgotten by request 1": ["Probability"],
            "Overall": ["Model utility (TOFU)"],
        },
        "A Closer Look": {"Forget": ["Entailment"]},
        "Privacy": {"AUC": ["LOSS", "Min-K 20 %"], "Overall": ["PrivLeak (percent, best at 0)", "mine"]},
        "MUSE": {"Overall": ["verbatim"]},
        "General ability (lm_eval)": {"Overall": ["arc/acc"]},
        "Others": {"Overall": ["mine/probability", "mia/score"]},
    }
    assert [*found] == [
        *("Memorisation, privacy and utility", "TOFU", "A Closer Look", "Privacy", "MUSE"),
        *("General ability (lm_eval)", "Others"),
    ]
    assert [*found["TOFU"]] == ["Forget", "Retain", "Forgotten by request 1", "Overall"]


def test_every_score_of_a_run_is_in_one_table():
    after = metrics()["after"]
    rows = [row for tables in outline(Run(Path("r"), metrics={"after": after})).values() for row in tables.values()]
    assert sum(map(len, rows)) == len(after)


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("muse/forget/verbatim", ("MUSE", "Forget")),
        ("rwku/neighbours/fill_in", ("RWKU", "neighbours")),
        ("holdout/probability", ("TOFU", "Holdout")),
        ("forget/fluency", ("Memorisation, privacy and utility", "Forget")),
        ("forget/something_new", ("Others", "Overall")),
    ],
)
def test_place(key, where):
    assert place(key) == where


def test_cells_hold_values_and_intervals():
    key = "forget/probability"
    run = Run(Path("r"), metrics={"after": {key: 0.1}}, intervals={"after": {key: (0.05, 0.2)}})
    (row,) = scores(run)[0]["tables"][0]["rows"]
    assert row["aim"] == "lower"
    assert row["cells"] == {
        "before": {"value": "–", "interval": ""},
        "after": {"value": "0.100", "interval": "0.050 to 0.200"},
        "retrained": {"value": "–", "interval": ""},
    }
