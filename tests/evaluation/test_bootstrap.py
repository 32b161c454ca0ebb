"""Intervals against resampled lists, the normal approximation, and pairs of rows."""

import time

import pytest

from lightning_unlearn.evaluation import protocols
from lightning_unlearn.evaluation.bootstrap import difference_intervals, draws, intervals
from lightning_unlearn.evaluation.rows import column
from tests.evaluation.made import made_log
from tests.evaluation.test_protocols import OURS

CHOSEN = [module.scores for module in OURS]


def every_score(log, retrained=None, start=None):
    return protocols.scores(CHOSEN, log, retrained, start)


def probability(log):
    return {"probability": column(log["forget"], "rougeL_recall").mean().item()}


def test_a_draw_scores_as_the_list_of_its_rows():
    logs = [made_log(8, seed=seed) for seed in range(3)]
    for drawn in draws(logs, resamples=2, seed=0):
        lists = [{name: list(rows) for name, rows in log.items()} for log in drawn]
        assert every_score(*drawn) == pytest.approx(every_score(*lists), nan_ok=True)
        assert lists[0] != logs[0]
        at = [[row["index"] for row in one["forget"]] for one in lists]
        assert at[0] == at[1] == at[2]
        assert at[0] != [row["index"] for row in lists[0]["retain"]]


def test_interval_of_a_mean_is_that_of_the_normal_approximation():
    log = {"forget": made_log(400)["forget"]}
    values = column(log["forget"], "rougeL_recall")
    half = 1.96 * values.std().item() / 20
    low, high = intervals(probability, log, resamples=2000)["probability"]
    assert low == pytest.approx(values.mean().item() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean().item() + half, abs=0.15 * half)
    narrower = intervals(probability, log, resamples=2000, level=0.5)["probability"]
    assert low < narrower[0] < narrower[1] < high


def test_every_score_lies_in_its_interval_and_the_seed_decides():
    logs = [made_log(30, seed=seed) for seed in range(3)]
    found = intervals(every_score, *logs, resamples=40)
    values = every_score(*logs)
    assert found.keys() == values.keys()
    inside = [low <= values[key] <= high for key, (low, high) in found.items()]
    assert sum(inside) / len(inside) > 0.8  # those of minima and distances are biased
    assert intervals(every_score, *logs, resamples=40) == found
    assert intervals(every_score, *logs, resamples=40, seed=1) != found


def test_a_difference_is_that_of_paired_rows():
    before = made_log(100)
    after = {
        name: [{**row, "rougeL_recall": row["rougeL_recall"] + 0.25} for row in rows] for name, rows in before.items()
    }
    low, high = difference_intervals(probability, after, before, resamples=50)["probability"]
    assert (low, high) == pytest.approx((0.25, 0.25))
    # a row that failed on one side has no pair
    after["forget"][3] = {"index": 3, "failed": "NaN"}
    before["forget"][7] = {"index": 7, "failed": "NaN"}
    low, high = difference_intervals(probability, after, before, resamples=50)["probability"]
    assert (low, high) == pytest.approx((0.25, 0.25))


def test_a_difference_has_the_level_and_the_draws_that_are_asked_for():
    logs = made_log(40, seed=1), made_log(40)
    wide, narrow, other = (
        difference_intervals(probability, *logs, **options)["probability"]
        for options in ({}, {"level": 0.5}, {"seed": 1})
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert other != wide


def test_columns_are_read_once():
    reads = []

    class Row(dict):
        def get(self, key, default=None):
            reads.append(key)
            return super().get(key, default)

    log = {"forget": [Row(row) for row in made_log(10)["forget"]]}
    intervals(probability, log, resamples=1)
    once = len(reads)
    intervals(probability, log, resamples=20)
    assert len(reads) == 2 * once


@pytest.mark.slow
def test_intervals_of_all_protocols_take_seconds():
    logs = [made_log(400, seed=seed) for seed in range(3)]
    started = time.perf_counter()
    assert len(intervals(every_score, *logs)) > 70
    assert time.perf_counter() - started < 30  # 5 s on an idle core


def test_errors():
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        intervals(probability, made_log(1), resamples=0)
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 95"):
        intervals(probability, made_log(1), level=95)
