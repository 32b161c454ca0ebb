from __future__ import annotations

from math import log

import pytest

from lightning_unlearn.data.packing import pack
from lightning_unlearn.objectives.idk_nll import IdkNLL
from tests.dense import HALVES, ROWS, Table, as_padded, batches, check_against_dense, dense, row, tiny


def test_by_hand():
    # -log p(1|0) = 2 log 2, -log p(3|2) = log 2; the forget answer itself is not read
    batch = pack({"forget": [row([0], [0], [3])], "forget_idk": [row([0, 2], [0, 1], [1, 3])]})
    losses = IdkNLL(Table(HALVES), forget_weight=2.0).losses(batch)
    assert losses["forget"].item() == pytest.approx(1.5 * log(2))
    assert losses["loss"].item() == pytest.approx(3 * log(2))


@pytest.mark.parametrize("retain", ["none", "nll"])
def test_against_dense(retain):
    model = tiny()
    objective = IdkNLL(model, retain=retain, forget_weight=0.6, retain_weight=0.5)

    def terms():
        padded = as_padded(ROWS)
        forget = -dense(model, padded["forget_idk"]).lp.mean()
        if retain == "none":
            return {"loss": 0.6 * forget, "forget": forget}
        kept = -dense(model, padded["retain"]).lp.mean()
        return {"loss": 0.6 * forget + 0.5 * kept, "forget": forget, "retain": kept}

    check_against_dense(objective, model, batches(), terms)


def test_it_reads_refusals_alone():
    assert IdkNLL(tiny()).roles == ("forget_idk",)
    with pytest.raises(ValueError, match=r"roles \('forget_idk',\) of IdkNLL, got \('forget', 'retain'\)"):
        IdkNLL(tiny()).losses(pack({"forget": ROWS["forget"], "retain": ROWS["retain"]}))
