"""Which runs are one row, in which order, with which numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lightning_unlearn.report.leaderboard import Row, best, leaderboard, mean_run, merge_seeds
from lightning_unlearn.report.runs import Run

KEY = "forget/probability"


def run(name: str, value: float = 0.5, *, method: str = "NPO", seed: int = 0, rows: str = "ab", **more: Any) -> Run:
    card = {
        "method": {"class": f"package.{method}", "hyperparameters": {"lr": 1e-5, "seed": seed}},
        "data": {"hyperparameters": {"seed": seed}, "sets": {"forget": {"rows": 4, "sha256": rows}}},
        "seeds": {"global": seed},
        "time": {"train_seconds": 10.0 * seed},
    }
    return Run(Path(name), card=card, metrics={"after": {KEY: value}}, **more)


def names(groups: list[list[Run]]) -> list[list[str]]:
    return [[member.name for member in group] for group in groups]


def test_runs_that_differ_in_seed_alone_are_one_group():
    groups = merge_seeds([run("a", seed=0), run("b", method="DPO", seed=1), run("c", seed=1), run("d", seed=2)])
    assert names(groups) == [["a", "c", "d"], ["b"]]


@pytest.mark.parametrize(
    "other",
    [
        run("b", seed=1, rows="cd"),
        run("b", seed=1, evaluation={"max_rows": 5}),
        run("b", seed=0),  # the same seed again
        Run(Path("b"), metrics={"after": {KEY: 0.5}}),  # without a card nobody knows
    ],
)
def test_runs_that_differ_in_more_than_the_seed_stay_apart(other):
    assert names(merge_seeds([run("a", seed=0), other])) == [["a"], ["b"]]


def test_two_without_card_stay_apart():
    assert len(merge_seeds([Run(Path("a")), Run(Path("b"))])) == 2


def test_mean_and_standard_deviation_over_seeds():
    (row,) = leaderboard([run("a", 0.1, seed=1), run("b", 0.2, seed=2), run("c", 0.6, seed=3)])
    assert row.value(KEY) == pytest.approx(0.3)
    # deviations -0.2, -0.1, 0.3: sqrt((0.04 + 0.01 + 0.09) / 2)
    assert row.spread(KEY) == pytest.approx(math.sqrt(0.07))
    assert row.run.card["time"]["train_seconds"] == pytest.approx(20.0)
    assert row.where == "3 seeds: a, b, c"


def test_a_score_that_one_seed_lacks_has_no_mean():
    (row,) = leaderboard([run("a", 0.1, seed=1), run("b", math.nan, seed=2)])
    assert row.value(KEY) is None
    assert row.spread(KEY) is None
    assert "train_seconds" in mean_run([run("a", seed=1), Run(Path("b"))]).card["time"]


def test_one_run_has_no_spread():
    (row,) = leaderboard([run("a", 0.1)])
    assert (row.value(KEY), row.spread(KEY), row.where) == (0.1, None, "a")


def test_rows_stand_by_method_below_the_models_they_are_compared_with():
    runs = [run("a", 0.1), run("b", 0.2, method="DPO"), run("c", 0.3, rows="cd")]
    for one in runs:
        one.metrics["before"] = {KEY: 0.9}
    runs[2].metrics["retrained"] = {KEY: 0.05}
    found = [(row.mark, row.name, row.where, row.stage, row.value(KEY)) for row in leaderboard(runs)]
    assert found == [
        ("", "Starting model", "", "before", 0.9),
        ("", "Retrained model", "", "retrained", 0.05),
        ("1", "NPO", "a", "after", 0.1),
        ("2", "NPO", "c", "after", 0.3),
        ("3", "DPO", "b", "after", 0.2),
    ]


def test_best_follows_the_direction_and_leaves_out_what_is_compared_with():
    def row(key: str, value: float, *, ranked: bool = True) -> Row:
        one = Run(Path("r"), metrics={"after": {key: value}})
        return Row(one, "after", "m", runs=(one,) if ranked else ())

    assert best([row(KEY, 0.2), row(KEY, 0.1), row(KEY, 0.0, ranked=False)], KEY) == "0.100"
    assert best([row("model_utility", 0.2), row("model_utility", 0.1)], "model_utility") == "0.200"
    assert best([row("privacy/loss_auc", 0.2), row("privacy/loss_auc", 0.1)], "privacy/loss_auc") is None
    assert best([row(KEY, 0.2), row(KEY, 0.1, ranked=False)], KEY) is None
    assert best([row(KEY, 0.2), row(KEY, 0.2)], KEY) is None
