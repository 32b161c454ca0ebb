from __future__ import annotations

from math import log

import pytest
from torch.nn.functional import logsigmoid

from lightning_unlearn.data.packing import pack
from lightning_unlearn.objectives.gradient_ascent import GradientAscent
from lightning_unlearn.objectives.npo import NPO
from tests.dense import (
    HALVES,
    QUARTERS,
    ROWS,
    Table,
    as_padded,
    assert_same_gradients,
    batches,
    check_against_dense,
    dense,
    gradients,
    row,
    tiny,
)

# log p/q against a uniform reference: (-1 + 2) + (-2 + 2) = 1 and -3 + 2 = -1, in units of log 2
HAND = {"forget": [row([0, 1], [0, 1], [0, 3]), row([2], [0], [0])]}


def test_one_sigmoid_a_row_by_hand():
    """SOUL takes one sigmoid of the whole batch, which would give 2 log 2 here."""
    # beta 1: 2 log(1 + 2) and 2 log(1 + 1/2), on average log 4.5
    losses = NPO(Table(HALVES), beta=1.0, reference=Table(QUARTERS)).losses(pack(HAND))
    assert losses["forget"].item() == pytest.approx(log(4.5))


def test_the_start_is_two_over_beta_log_two():
    assert NPO(tiny(), beta=0.1).losses(pack(ROWS))["forget"].item() == pytest.approx(20 * log(2))


@pytest.mark.parametrize("beta", [0.1, 1.5])
@pytest.mark.parametrize("retain", ["none", "nll", "kl"])
def test_against_dense(beta, retain):
    model, reference = tiny(), tiny(seed=1)
    objective = NPO(model, beta=beta, retain=retain, forget_weight=0.8, retain_weight=0.3, reference=reference)

    def terms():
        padded = as_padded(ROWS)
        p, q = dense(model, padded["forget"]), dense(reference, padded["forget"])
        forget = -(2 / beta) * logsigmoid(-beta * (p.row_sums(p.lp) - q.row_sums(q.lp).detach())).mean()
        if retain == "none":
            return {"loss": 0.8 * forget, "forget": forget}
        p, q = dense(model, padded["retain"]), dense(reference, padded["retain"])
        kl = (q.log_p.exp() * (q.log_p - p.log_p)).sum(-1).mean()
        kept = -p.lp.mean() if retain == "nll" else kl
        return {"loss": 0.8 * forget + 0.3 * kept, "forget": forget, "retain": kept}

    check_against_dense(objective, model, batches()[:3], terms)


def test_gradient_ascent_is_its_limit():
    # d/d theta of NPO at beta -> 0 is the mean over rows of the gradient of the summed log p; rows of equal length here
    model, rows = tiny(), {"forget": [ROWS["forget"][0]]}
    ours = gradients(NPO(model, beta=1e-7, reference=tiny(seed=1)).losses(pack(rows))["loss"], model)
    theirs = gradients(5 * GradientAscent(model).losses(pack(rows))["loss"], model)  # 5 labelled tokens
    assert_same_gradients(ours, theirs, tolerance=1e-5)


def test_a_reference_is_needed():
    assert NPO(tiny()).needs_reference
    with pytest.raises(ValueError, match='reference must not be "none"'):
        NPO(tiny(), reference="none").losses(pack(ROWS))


def test_beta_must_be_above_zero():
    with pytest.raises(ValueError, match=r"beta must be above 0, got 0\.0"):
        NPO(tiny(), beta=0.0)
