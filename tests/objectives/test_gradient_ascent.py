from __future__ import annotations

from math import log

import pytest

from lightning_unlearn.data.packing import pack
from lightning_unlearn.objectives.gradient_ascent import GradientAscent
from tests.dense import HALVES, ROWS, Table, as_padded, batches, check_against_dense, dense, row, tiny


def test_by_hand():
    # p(0|0) = 1/2, p(3|1) = 1/4 | p(0|2) = 1/8: the mean of log p is -(1 + 2 + 3)/3 log 2
    losses = GradientAscent(Table(HALVES)).losses(pack({"forget": [row([0, 1], [0, 1], [0, 3]), row([2], [0], [0])]}))
    assert losses["forget"].item() == pytest.approx(-2 * log(2))
    assert losses["loss"].item() == pytest.approx(-2 * log(2))
    assert set(losses) == {"loss", "forget"}


def test_the_mean_is_over_tokens_and_not_over_rows():
    # rows of 2 and 1 tokens: token mean of (1, 1, 4) halvings is 2; a mean of row means would be 2.5
    table = Table([[1 / 2, 1 / 2], [1 / 16, 15 / 16]])
    losses = GradientAscent(table).losses(pack({"forget": [row([0, 0], [0, 1], [0, 1]), row([1], [0], [0])]}))
    assert losses["forget"].item() == pytest.approx(-2 * log(2))


def test_against_dense():
    model = tiny()
    objective = GradientAscent(model, forget_weight=0.7)

    def terms():
        forget = dense(model, as_padded(ROWS)["forget"]).lp.mean()
        return {"loss": 0.7 * forget, "forget": forget}

    check_against_dense(objective, model, batches(), terms)


def test_retain_terms_are_available():
    assert GradientAscent(tiny()).roles == ("forget",)
    assert GradientAscent(tiny(), retain="kl").roles == ("forget", "retain")
