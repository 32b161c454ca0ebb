from __future__ import annotations

from math import inf, log

import pytest
import torch

from lightning_unlearn.data.packing import RoleScale, pack
from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.objectives.ceu import CEU
from tests.dense import (
    HALVES,
    MEMORISED,
    ROWS,
    Table,
    as_padded,
    batches,
    check_against_dense,
    dense,
    gradients,
    make_rows,
    memorised,
    row,
    tiny,
)

# In units of log 2: (2 + 4 + 4)/7 of 3, 2, 1 and 2 (a uniform row), then 2 and (1 + 1)/4 x 3 + 1/2 x 2
HAND = {"forget": [row([2, 1], [0, 1], [0, 3]), row([1, 2], [0, 1], [2, 3])]}
VALUES = [(1 * 3 + 2 * 2 + 4 * 1) / 7, 2, 2, 2.5]


@pytest.mark.parametrize(("skip_first", "expected"), [(True, (VALUES[1] + VALUES[3]) / 2), (False, sum(VALUES) / 4)])
def test_by_hand(skip_first, expected):
    objective = CEU(Table(HALVES), skip_first=skip_first)
    assert objective.losses(pack(HAND))["forget"].item() == pytest.approx(expected * log(2))


def test_gradient_by_hand():
    # After token 0, p = (1/2, 1/4, 1/8, 1/8) and y = 0: p - (0, 1/2, 1/4, 1/4)
    model = Table(HALVES)
    CEU(model, skip_first=False).losses(pack({"forget": [row([0], [0], [0])]}))["loss"].backward()
    assert model.log_p.grad[0].tolist() == pytest.approx([1 / 2, -1 / 4, -1 / 8, -1 / 8])


@pytest.mark.parametrize("skip_first", [True, False])
@pytest.mark.parametrize("retain", ["none", "nll"])
def test_against_dense(skip_first, retain):
    model = tiny()
    objective = CEU(model, skip_first=skip_first, retain=retain, forget_weight=0.8, retain_weight=0.3)

    def terms():
        padded = as_padded(ROWS)
        p = dense(model, padded["forget"])
        target = p.log_p.detach().scatter(1, p.y.unsqueeze(1), -inf).softmax(-1)
        values = -(target * p.log_p).sum(-1)
        if skip_first:
            values = torch.cat([values[p.row == i][1:] for i in range(len(ROWS["forget"]))])
        forget = values.mean()
        if retain == "none":
            return {"loss": 0.8 * forget, "forget": forget}
        kept = -dense(model, padded["retain"]).lp.mean()
        return {"loss": 0.8 * forget + 0.3 * kept, "forget": forget, "retain": kept}

    check_against_dense(objective, model, batches(), terms)


def test_the_gradient_is_that_of_log_complement():
    model = tiny()
    ours = gradients(CEU(model, skip_first=False).losses(pack(ROWS))["loss"], model)
    p = dense(model, as_padded(ROWS)["forget"])
    theirs = gradients(-(1 - p.lp.exp()).log().mean(), model)
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("margin", [20.0, 40.0, 80.0, 200.0, 800.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_memorised_row(margin, dtype):
    """Through log p_y, -log(1 - p_y) is infinite and its gradient not a number once p_y rounds to 1."""
    model = memorised(margin, dtype=dtype)
    loss = CEU(model, skip_first=False).losses(pack(MEMORISED))["forget"]
    # The others share their part equally: log p_v = -margin, of which log 3 may be lost to rounding
    assert margin - log(3) - 1e-4 <= loss.item() <= margin + 1e-4
    expected = torch.tensor([1, -1 / 3, -1 / 3, -1 / 3], dtype=dtype)  # x 2, see `gradients`
    torch.testing.assert_close(gradients(loss, model)["log_p"][0], 2 * expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("margin", [0.0, 2.0, 5.0, 8.0])
def test_the_value_in_single_precision(margin):
    # log p_v = -log(e^margin + 3)
    loss = CEU(memorised(margin, dtype=torch.float32), skip_first=False).losses(pack(MEMORISED))["forget"]
    exact = torch.tensor([margin, 0.0, 0.0, 0.0], dtype=torch.float64).logsumexp(0).item()
    assert loss.item() == pytest.approx(exact, abs=2e-3)


ONE = row([5], [0], [7])  # labels one token, which is its first


@pytest.mark.parametrize("skip_first", [True, False])
def test_micro_batches_and_ranks_add_up_to_the_step(skip_first):
    """The first token of each row counts neither in the sum nor in the number of tokens of the step."""
    rows = {"forget": [*make_rows([1, 9, 2, 6, 3], seed=5), ONE, *make_rows([4, 1], seed=6)]}
    objective = CEU(tiny(), skip_first=skip_first)
    (whole,) = UnlearningLoader(rows, batch_size=8)
    ranks = [UnlearningLoader(rows, batch_size=2, accumulate=lambda: 2, rank=r, world_size=2) for r in range(2)]
    parts = [objective.losses(batch)["loss"].item() for loader in ranks for batch in loader]
    assert len(parts) == 4
    alone = pack({"forget": rows["forget"]})  # without counts of the step
    expected = objective.losses(alone)["loss"].item()
    assert objective.losses(whole)["loss"].item() == pytest.approx(expected)
    assert sum(parts) / 4 == pytest.approx(expected)


@pytest.mark.parametrize(
    "scales", [{}, {"forget": RoleScale(1 / 3, 1 / 3, 1 / 3)}, {"forget": RoleScale(0.0, 0.0, 0.0)}]
)
def test_rows_of_first_tokens_alone_are_0(scales):
    model = tiny()
    loss = CEU(model).losses(pack({"forget": [ONE] * 3}, scales=scales))["forget"]
    assert loss.item() == 0
    assert gradients(loss, model)["lm_head.weight"].abs().max() == 0


def test_what_stands_in_for_no_rows_weighs_nothing():
    scales = {"forget": RoleScale(0.0, 0.0, 0.0)}
    assert CEU(tiny()).losses(pack({"forget": ROWS["forget"]}, scales=scales))["forget"].item() == 0


def test_defaults():
    objective = CEU(tiny(), reference="none")
    assert (objective.skip_first, objective.forget_weight, objective.roles) == (True, 1, ("forget",))
    assert not objective.needs_reference


def test_skip_first_must_be_a_truth_value():
    with pytest.raises(ValueError, match="skip_first must be True or False, got 2"):
        CEU(tiny(), skip_first=2)
