from __future__ import annotations

from math import log

import pytest

from lightning_unlearn.data.packing import pack
from lightning_unlearn.objectives.fine_tune import FineTune
from tests.dense import HALVES, ROWS, Table, as_padded, batches, check_against_dense, dense, row, tiny


def test_by_hand():
    # -log p(0|0) = log 2, -log p(0|2) = 3 log 2
    losses = FineTune(Table(HALVES)).losses(pack({"forget": [row([0, 2], [0, 1], [0, 0])]}))
    assert losses["loss"].item() == pytest.approx(2 * log(2))


def test_against_dense():
    model = tiny()

    def terms():
        forget = -dense(model, as_padded(ROWS)["forget"]).lp.mean()
        return {"loss": forget, "forget": forget}

    check_against_dense(FineTune(model), model, batches(), terms)
