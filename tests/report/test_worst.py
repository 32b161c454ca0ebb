"""The worst rows are found by every score, and named."""

from __future__ import annotations

import pytest

from lightning_unlearn.report.worst import badness, worst_first


def rows(*samples: dict) -> list[dict[str, dict]]:
    return [{"after": {"index": index, **sample}} for index, sample in enumerate(samples)]


def order(found) -> list[tuple[int, list[str]]]:
    return [(stages["after"]["index"], keys) for stages, keys in found]


def test_the_worst_by_each_score_come_first_and_are_named():
    found = worst_first(
        rows(
            {"rougeL_recall": 0.5, "probability": 0.1},  # mean 0.3
            {"rougeL_recall": 0.1, "probability": 0.9},
            {"rougeL_recall": 0.6, "probability": 0.0},
            {"rougeL_recall": 0.5, "probability": 0.2},  # mean 0.35
        ),
        falls=False,
    )
    assert order(found) == [(2, ["rougeL_recall"]), (1, ["probability"]), (3, []), (0, [])]


def test_one_row_may_be_the_worst_by_several_scores():
    samples = rows({"rougeL_recall": 0.1, "token_correct": [1, 0]}, {"rougeL_recall": 0.9, "token_correct": [1, 1]})
    assert order(worst_first(samples, falls=False)) == [(1, ["rougeL_recall", "exact_memorization"]), (0, [])]


def test_a_tie_goes_to_the_row_that_is_worse_over_all():
    samples = rows(
        {"entailment": True, "probability": 0.1},
        {"entailment": True, "probability": 0.3},
        {"entailment": False, "probability": 0.2},
    )
    assert order(worst_first(samples, falls=False))[0] == (1, ["probability", "entailment"])


def test_a_score_that_is_the_same_for_all_names_none():
    assert order(worst_first(rows({"probability": 0.5}, {"probability": 0.5}), falls=False)) == [(0, []), (1, [])]


def test_what_should_stay_is_judged_by_its_fall():
    never_known = {"before": {"index": 0, "rougeL_recall": 0.1}, "after": {"index": 0, "rougeL_recall": 0.1}}
    damaged = {"before": {"index": 1, "rougeL_recall": 1.0}, "after": {"index": 1, "rougeL_recall": 0.4}}
    assert order(worst_first([never_known, damaged], falls=True)) == [(1, ["rougeL_recall"]), (0, [])]
    assert badness(damaged, falls=True)["rougeL_recall"] == pytest.approx(0.6)
    assert badness({"after": {"rougeL_recall": 0.4}}, falls=True)["rougeL_recall"] == pytest.approx(0.6)  # from 1


def test_rows_without_scores_come_last():
    assert order(worst_first(rows({}, {"probability": 0.0}), falls=False)) == [(1, []), (0, [])]
    assert worst_first([], falls=True) == []
