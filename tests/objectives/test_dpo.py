from __future__ import annotations

from math import log

import pytest
from torch.nn.functional import logsigmoid

from lightning_unlearn.data.packing import pack
from lightning_unlearn.objectives.dpo import DPO
from tests.dense import HALVES, QUARTERS, ROWS, Table, as_padded, batches, check_against_dense, dense, row, tiny

# log p/q against a uniform reference, in units of log 2: answers 1 and -1, refusals -1 and -1
HAND = {
    "forget": [row([0, 1], [0, 1], [0, 3]), row([2], [0], [0])],
    "forget_idk": [row([0], [0], [2]), row([2], [0], [1])],
}


def test_one_sigmoid_a_row_by_hand():
    # margins -2 log 2 and 0 at beta 1: 2 log(1 + 4) and 2 log 2, on average log 10
    losses = DPO(Table(HALVES), beta=1.0, reference=Table(QUARTERS)).losses(pack(HAND))
    assert losses["forget"].item() == pytest.approx(log(10))


def test_the_start_is_two_over_beta_log_two():
    assert DPO(tiny()).losses(pack(ROWS))["forget"].item() == pytest.approx(20 * log(2))


@pytest.mark.parametrize("retain", ["none", "reverse_kl"])
def test_against_dense(retain):
    model, reference = tiny(), tiny(seed=1)
    objective = DPO(model, beta=0.5, retain=retain, forget_weight=0.8, retain_weight=0.3, reference=reference)

    def ratio(role):
        p, q = dense(model, role), dense(reference, role)
        return p.row_sums(p.lp) - q.row_sums(q.lp).detach()

    def terms():
        padded = as_padded(ROWS)
        forget = -(2 / 0.5) * logsigmoid(0.5 * (ratio(padded["forget_idk"]) - ratio(padded["forget"]))).mean()
        if retain == "none":
            return {"loss": 0.8 * forget, "forget": forget}
        p, q = dense(model, padded["retain"]).log_p, dense(reference, padded["retain"]).log_p
        kept = (p.exp() * (p - q)).sum(-1).mean()
        return {"loss": 0.8 * forget + 0.3 * kept, "forget": forget, "retain": kept}

    check_against_dense(objective, model, batches(), terms)


def test_the_winner_is_the_refusal():
    # At the start every row's gradient is that of -(log p of the refusal - log p of the answer)
    table = Table(QUARTERS)
    DPO(table).losses(pack({"forget": [row([0], [0], [3])], "forget_idk": [row([0], [0], [1])]}))["loss"].backward()
    assert table.log_p.grad[0].tolist() == pytest.approx([0.0, -1.0, 0.0, 1.0])


def test_a_refusal_for_every_forget_row_is_needed():
    """RMU's authors subtract a [B, 1] from a [B] tensor: shapes that broadcast are no error there."""
    rows = {**HAND, "forget_idk": HAND["forget_idk"][:1]}
    with pytest.raises(ValueError, match='one row of "forget_idk" for each of "forget", got 1 and 2'):
        DPO(Table(HALVES), reference=Table(QUARTERS)).losses(pack(rows))


def test_beta_must_be_above_zero():
    with pytest.raises(ValueError, match=r"beta must be above 0, got -0\.1"):
        DPO(tiny(), beta=-0.1)
