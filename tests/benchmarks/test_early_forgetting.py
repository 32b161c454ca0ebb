"""The table's numbers by hand, and one run for real."""

from __future__ import annotations

from math import isnan

import pytest

from benchmarks import early_forgetting
from benchmarks.early_forgetting import Run, line


def check(step: int, rate: float, *, seconds: float = 0.0, checking: float = 0.0) -> dict[str, float]:
    times = {"seconds": seconds, "checking": checking}
    return {"step": step, "bad_rate": rate, "normal_nll": 0.5, "active": 3, **times}


def test_the_first_step_at_which_training_could_end():
    rates = (0.0, 0.1, 0.05, 0.0, 0.0)
    assert Run([check(5 * i, rate) for i, rate in enumerate(rates)]).first_safe == 15  # two in a row at 10 and 15
    assert isnan(Run([check(0, 1.0), check(5, 0.0), check(10, 0.06)]).first_safe)


@pytest.mark.parametrize(
    ("way", "times"), [("fixed schedule", "6.0 | 0.0"), ("stopped early", "8.0 | 2.0")], ids=["fixed", "early"]
)
def test_a_line_is_the_mean_and_a_fixed_schedule_has_no_checks(way, times):
    runs = [Run([check(0, 0.0), check(5 * i, 0.0, seconds=7.0 + i, checking=1.0 + i)]) for i in (0, 2)]
    assert line("harm", way, runs) == f"| harm | {way} | 5 | {times} | 0.00 | 0.500 | 5 |\n"


@pytest.mark.slow(minutes=2)
def test_a_run_of_each_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(early_forgetting, "KINDS", {"leakage": None})
    early_forgetting.main(["--output", str(tmp_path), "--seeds", "1", "--epochs", "4"])
    lines = [found.split(" | ") for found in capsys.readouterr().out.splitlines() if found.startswith("| leakage")]
    assert [found[1] for found in lines[:3]] == list(early_forgetting.WAYS)
    assert [float(found[5]) for found in lines[:3]] == [0.0, 0.0, 0.0]
    steps = [int(found[2]) for found in lines[:3]]
    assert steps[0] == 40
    assert max(steps[1:]) < 40
