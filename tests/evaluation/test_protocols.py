"""Protocols by name and by import path, and which logs they are handed."""

import math

import pytest

from lightning_unlearn.evaluation import closer_look, memorization, privacy, protocols, tofu, unlearning_score
from lightning_unlearn.evaluation.protocols import find_protocol, protocol_names
from tests.evaluation.made import made_log

OURS = (tofu, closer_look, memorization, privacy, unlearning_score)


def longest(log, start_log=None):
    """A protocol of one's own: the longest answer, and of how many models it knows."""
    tokens = max(sample["answer_tokens"] for sample in log["forget"])
    return {"mine/longest": tokens, "mine/logs": 1 + (start_log is not None)}


def test_names_are_the_modules_with_scores():
    assert {module.__name__.rpartition(".")[2] for module in OURS} <= set(protocol_names())
    assert not {"log", "run", "judge", "rows", "bootstrap", "protocols"} & set(protocol_names())
    assert find_protocol("privacy") is privacy.scores
    assert find_protocol(f"{__name__}.longest").__name__ == "longest"


@pytest.mark.parametrize("name", ["privat", "", "absent.scores", f"{__name__}.absent", f"{__name__}.math.pi"])
def test_unknown_names_are_told_with_the_choices(name):
    with pytest.raises(ValueError, match=rf'protocols must be of closer_look, .*tofu.*, got "{name}"'):
        find_protocol(name)
    assert math.pi  # a name that is there, and no function


def test_each_protocol_gets_the_logs_that_it_takes():
    log, retrained, start = (made_log(6, seed=seed) for seed in range(3))
    expected = tofu.scores(log, retrained) | closer_look.scores(log) | privacy.scores(log, retrained)
    expected |= unlearning_score.scores(log, retrained, start_log=start) | {"mine/longest": 29, "mine/logs": 2}
    chosen = [module.scores for module in (tofu, closer_look, privacy, unlearning_score)]
    found = protocols.scores([*chosen, longest], log, retrained, start)
    assert found | {"mine/longest": 29} == expected
    assert protocols.missing([*chosen, longest], log, retrained, start) == {}
    assert list(protocols.missing(chosen, log)) == ["unlearning_score/privacy", "unlearning_score/utility"]


def test_failed_rows_and_sets_of_nothing_else_are_left_out():
    log = made_log(3)
    failed = {"index": 9, "failed": "too long"}
    with_failed = {**{name: [*rows, failed] for name, rows in log.items()}, "other": [failed]}
    assert protocols.evaluated(with_failed) == log
    assert protocols.scores([tofu.scores], protocols.evaluated({"forget": [failed], "retain": log["retain"]})) == (
        tofu.scores({"retain": log["retain"]})
    )


def test_columns_of_later_versions_may_be_missing():
    """Logs of callers that know nothing of new columns, and the published ones, give what they gave."""
    new = ("token_correct", "token_log_prob_variance", "answer_zlib_bytes", "reference_nll", "gradient_norm")
    log = {
        name: [{key: value for key, value in row.items() if key not in new} for row in rows]
        for name, rows in made_log(5).items()
        if name != "holdout"
    }
    found = protocols.scores([module.scores for module in OURS], log)
    assert found.items() >= (tofu.scores(log) | closer_look.scores(log)).items()
    assert not any(key.startswith(("privacy", "unlearning_score")) for key in found)


def odd(log):
    """A protocol of one's own, of which one score alone is a finite number."""
    return {"a": math.nan, "b": -math.inf, "c": "high", "d": True, "e": 3}


def test_what_is_no_finite_number_is_left_out_and_told():
    log = {"forget": [{"index": 0}]}
    assert protocols.scores([odd], log) == {"e": 3.0}
    told = {key: f"a finite number, got {value!r}" for key, value in odd(log).items() if key != "e"}
    assert protocols.missing([odd], log) == told
    assert protocols.names([odd], log) == ["a", "b", "c", "d", "e"]


def nothing(log):
    """A protocol that forgot to return."""


def test_a_protocol_must_return_a_dict():
    with pytest.raises(ValueError, match=rf"must return a dict of scores, got NoneType of {__name__}\.nothing"):
        protocols.scores([nothing], {})
