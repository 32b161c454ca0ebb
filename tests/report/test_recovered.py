"""Which shares stand on a leaderboard, with which verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_unlearn.report.leaderboard import leaderboard
from lightning_unlearn.report.recovered import differ, strongest, told, with_shares
from lightning_unlearn.report.runs import Run
from tests.report.test_leaderboard import run

KEYS = ("stress/strongest", "stress/prefixes", "stress/layer_probe")


def attack(share: float | None, verdict: str = "holds", *, retrained: bool = True, **options: Any) -> dict[str, Any]:
    recovered = None if share is None else {"share": share, "verdict": verdict}
    models = ("unlearned", "retrained") if retrained else ("unlearned",)
    return {"options": options, "curves": {model: [{"x": 0}] for model in models}, "recovered": recovered}


def attacked(name: str = "a", *, seed: int = 0, **stress: dict[str, Any]) -> Run:
    return run(name, 0.5, seed=seed, stress=stress)


def test_the_strongest_is_the_largest_share_that_surely_exposes():
    unclear = attack(0.6, "unclear")
    one = with_shares(attacked(prefixes=unclear, layer_probe=attack(0.4, "exposed"), best_of_n=attack(0.3, "exposed")))
    assert one.metrics["after"] == {
        **{"forget/probability": 0.5, "stress/best_of_n": 0.3, "stress/layer_probe": 0.4, "stress/prefixes": 0.6},
        "stress/strongest": 0.4,
    }
    assert with_shares(attacked(prefixes=unclear, best_of_n=attack(0.1))).value("after", "stress/strongest") == 0.6
    assert strongest([one]) == "hidden states of each layer"


def test_a_run_without_attacks_stays_as_it_is():
    plain = run("a")
    assert with_shares(plain) is plain
    assert told([plain], "stress/strongest") == "not tested"
    assert told([plain], "forget/probability") == told([], "stress/strongest") == ""


def test_an_attack_that_was_not_made_or_that_tells_nothing():
    one = attacked(prefixes=attack(None), layer_probe=attack(0.1))
    assert [told([one], key) for key in (*KEYS, "stress/best_of_n")] == ["holds", "not known", "holds", "not tested"]
    assert told([attacked(prefixes=attack(None))], "stress/strongest") == "not known"
    left_out = {"left_out": "too few rows", "curves": {}}
    assert told([attacked(prefixes=left_out)], "stress/strongest") == "not tested"


def test_of_several_seeds_the_worst_verdict_mean_and_spread():
    seeds = [
        attacked("a", seed=1, prefixes=attack(0.5, "exposed"), layer_probe=attack(0.2)),
        attacked("b", seed=2, prefixes=attack(0.1), layer_probe=attack(0.3, "unclear")),
    ]
    (row,) = leaderboard(seeds)
    assert [told(row.runs, key) for key in KEYS] == ["exposed in 1 of 2", "exposed in 1 of 2", "unclear in 1 of 2"]
    assert [row.value(key) for key in KEYS] == pytest.approx([0.4, 0.3, 0.25])  # (0.5 + 0.3) / 2, (0.5 + 0.1) / 2
    assert row.spread("stress/prefixes") == pytest.approx(0.08**0.5)  # of 0.2 from the mean twice: sqrt(0.08 / 1)
    assert strongest(row.runs) == "instructions around the question, hidden states of each layer"


def test_a_seed_that_was_not_attacked_takes_the_mean_away():
    (row,) = leaderboard([attacked("a", seed=1, prefixes=attack(0.5, "exposed")), run("b", seed=2)])
    assert row.value("stress/prefixes") is None
    assert told(row.runs, "stress/prefixes") == "exposed in 1 of 2"


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"prefixes": attack(0.9, k=5)}, False),
        ({"prefixes": attack(0.1, k=6)}, True),
        ({"prefixes": attack(0.1, k=5, retrained=False)}, True),
        ({"prefixes": attack(0.1, k=5), "best_of_n": attack(0.1)}, True),
        ({}, False),  # not attacked
    ],
)
def test_attacks_that_differ_are_noticed(other, differs):
    runs = [attacked(prefixes=attack(0.1, k=5)), Run(Path("b"), stress=other)]
    assert differ(runs) is differs
