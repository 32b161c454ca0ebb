"""The published schemas of run_card.json and metrics.json: what they accept and what they refuse."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

from lightning_unlearn.callbacks.run_card import FORMAT
from tests.report.fake_run import CARD, metrics
from tests.report.json_schema import read_schema, violations


def broken(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a dotted path replaced, or deleted where it is None."""
    changed = copy.deepcopy(document)
    *parents, last = path.split(".")
    place: Any = changed
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed


def test_a_finished_card_follows_the_schema():
    assert list(violations(CARD, read_schema("run_card"))) == []


def test_a_card_of_a_run_that_has_begun_follows_it_too():
    ended = ("steps", "epochs", "tokens", "memory", "time")
    begun = {key: value for key, value in CARD.items() if key not in ended}
    assert list(violations({**begun, "finished": False, "data": None}, read_schema("run_card"))) == []


def test_the_schema_names_the_format_that_is_written():
    assert read_schema("run_card")["properties"]["format"]["const"] == FORMAT


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "lightning-unlearn run 2"),
        ("finished", "yes"),
        ("method", None),
        ("method.class", None),
        ("method.hyperparameters", ["lr"]),
        ("data.class", 3),
        ("data.sets.forget.rows", -1),
        ("data.sets.forget.rows", True),
        ("data.sets.retain.sha256", "3c3c"),
        ("seeds.global", "42"),
        ("versions.torch", 2.13),
        ("parameters.total", 1.5),
        ("time.train_seconds", math.nan),
    ],
)
def test_a_broken_card_is_refused(path, value):
    assert len(list(violations(broken(CARD, path, value), read_schema("run_card")))) == 1


def test_scores_follow_the_schema():
    assert list(violations(json.loads(json.dumps(metrics())), read_schema("metrics"))) == []
    assert list(violations({"before": None, "after": None}, read_schema("metrics"))) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("after", [0.5]),
        ("after.model_utility", "0.5"),
        ("after.model_utility", math.nan),
        ("general_ability.after", 0.5),
        ("intervals.after.model_utility", [0.1]),
        ("failed.after", [{"set": "forget", "why": "NaN"}]),
        ("substitutes.entailment", 1),
    ],
)
def test_broken_scores_are_refused(path, value):
    assert len(list(violations(broken(metrics(), path, value), read_schema("metrics")))) == 1


def test_a_keyword_that_is_not_checked_is_an_error():
    with pytest.raises(KeyError):
        list(violations("x", {"format": "date-time"}))
