from __future__ import annotations

from math import log

import pytest
import torch
from torch.nn.functional import logsigmoid

from lightning_unlearn.data.packing import pack
from lightning_unlearn.objectives.answer_preservation import AnswerPreservation
from tests.dense import HALVES, ROWS, Table, as_padded, batches, check_against_dense, dense, row, tiny

HAND = {
    "forget_idk": [row([0], [0], [1])],  # -log p(1|0) = 2 log 2
    # NLL(y) = 2 log 2 and log 2; NLL(idk) = (2 + 1) log 2 and 2 log 2: margins log 2, log 2
    "retain": [row([1], [0], [0]), row([2], [0], [3])],
    "retain_idk": [row([1, 0], [0, 1], [0, 0]), row([1], [0], [0])],
}


def test_by_hand():
    # beta 1: -log sigmoid(log 2) = log(1 + 1/2)
    losses = AnswerPreservation(Table(HALVES), beta=1.0, retain_weight=3.0).losses(pack(HAND))
    assert losses["forget"].item() == pytest.approx(2 * log(2))
    assert losses["retain"].item() == pytest.approx(log(1.5))
    assert losses["loss"].item() == pytest.approx(2 * log(2) + 3 * log(1.5))


def test_one_sigmoid_a_row():
    # margins 2 log 2 and 0 at beta 1: (log(1 + 1/4) + log 2)/2 = log(2.5)/2; one sigmoid of their mean gives log 1.5
    rows = {
        "retain": [row([0], [0], [0]), row([1], [0], [0])],  # log 2, 2 log 2
        "retain_idk": [row([2], [0], [0]), row([1], [0], [1])],  # 3 log 2, 2 log 2
        "forget_idk": HAND["forget_idk"],
    }
    losses = AnswerPreservation(Table(HALVES), beta=1.0).losses(pack(rows))
    assert losses["retain"].item() == pytest.approx(log(2.5) / 2)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_against_dense(beta):
    model = tiny()
    objective = AnswerPreservation(model, beta=beta, forget_weight=0.4, retain_weight=1.5)

    def terms():
        padded = as_padded(ROWS)
        forget = -dense(model, padded["forget_idk"]).lp.mean()
        answer, refusal = dense(model, padded["retain"]), dense(model, padded["retain_idk"])
        margin = -refusal.row_sums(refusal.lp) + answer.row_sums(answer.lp)
        kept = -(logsigmoid(beta * margin) / beta).mean()
        return {"loss": 0.4 * forget + 1.5 * kept, "forget": forget, "retain": kept}

    check_against_dense(objective, model, batches(), terms)


def test_a_refusal_for_every_retain_row_is_needed():
    """A single refusal would be compared with every row, by broadcasting, without a word."""
    rows = {**HAND, "retain_idk": HAND["retain_idk"][:1]}
    with pytest.raises(ValueError, match='one row of "retain_idk" for each of "retain", got 1 and 2'):
        AnswerPreservation(Table(HALVES)).losses(pack(rows))


def test_no_reference_model_is_needed():
    assert not AnswerPreservation(tiny(), reference="none").needs_reference
    assert AnswerPreservation(tiny()).roles == ("forget_idk", "retain", "retain_idk")


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_beta_must_be_above_zero(beta):
    with pytest.raises(ValueError, match="beta must be above 0"):
        AnswerPreservation(tiny(), beta=beta)


def test_a_certain_row_gives_finite_losses_and_gradients():
    table = Table([[1.0, 1e-300], [1e-300, 1.0]])
    rows = {"forget_idk": [row([0], [0], [1])], "retain": [row([0], [0], [1])], "retain_idk": [row([0], [0], [0])]}
    losses = AnswerPreservation(table).losses(pack(rows))
    losses["loss"].backward()
    assert losses["retain"].item() == pytest.approx(300 * log(10))  # -(1/beta) log sigmoid(-beta x) -> x
    assert torch.isfinite(table.log_p.grad).all()
