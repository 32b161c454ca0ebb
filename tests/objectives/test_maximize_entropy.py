from __future__ import annotations

from math import log

import pytest
import torch

from lightning_unlearn.data.packing import RoleScale, pack
from lightning_unlearn.objectives.maximize_entropy import MaximizeEntropy
from tests.dense import (
    HALVES,
    ROWS,
    Table,
    as_padded,
    batches,
    check_against_dense,
    dense,
    row,
    tiny,
)

DIRECTIONS = ("uniform_to_model", "model_to_uniform")


def divergence(log_p: torch.Tensor, direction: str) -> torch.Tensor:
    """KL to or from the uniform distribution, written out: [n]."""
    if direction == "uniform_to_model":
        return (-log(log_p.shape[-1]) - log_p).mean(-1)
    return (log_p.exp() * log_p).sum(-1) + log(log_p.shape[-1])


def uniform_forget(model, role, *, direction: str, scope: str) -> torch.Tensor:
    """Mean divergence of a padded role over the tokens that the scope names, from all logits."""
    log_p = model(input_ids=role["input_ids"], attention_mask=role["attention_mask"]).logits[:, :-1].log_softmax(-1)
    counts = {
        "answer": role["labels"][:, 1:] != -100,
        "sequence": (role["attention_mask"][:, 1:] == 1) | (role["labels"][:, 1:] != -100),
        "padded": torch.ones_like(role["labels"][:, 1:], dtype=torch.bool),
    }[scope]
    return divergence(log_p[counts], direction).mean()


@pytest.mark.parametrize(("direction", "expected"), [(DIRECTIONS[0], 1 / 8), (DIRECTIONS[1], 1 / 8)])
def test_by_hand(direction, expected):
    # Token 0, p = (1/2, 1/4, 1/8, 1/8): KL(U||p) = (1 + 2 + 3 + 3)/4 log 2 - log 4 = log(2)/4,
    # KL(p||U) = log 4 - 1.75 log 2 = log(2)/4. Token 1 is uniform: 0. The mean is log(2)/8.
    batch = pack({"forget": [row([0, 1], [0, 1], [3, 3])]})
    losses = MaximizeEntropy(Table(HALVES), direction=direction, retain="none", forget_weight=1.0).losses(batch)
    assert losses["forget"].item() == pytest.approx(expected * log(2))


def test_the_directions_differ_by_hand():
    # p = (1/2, 1/4, 1/4): KL(U||p) = (1 + 2 + 2)/3 log 2 - log 3, KL(p||U) = log 3 - 1.5 log 2
    batch = pack({"forget": [row([0], [0], [1])]})
    found = [
        MaximizeEntropy(Table([[1 / 2, 1 / 4, 1 / 4]] * 3), direction=direction, retain="none").losses(batch)["forget"]
        for direction in DIRECTIONS
    ]
    assert found[0].item() == pytest.approx(5 / 3 * log(2) - log(3))
    assert found[1].item() == pytest.approx(log(3) - 1.5 * log(2))


def test_on_a_confident_token_the_second_direction_almost_vanishes():
    # logit spike of 20 at V = 1000: |d KL(U||p)/dz| ~ 1, |d KL(p||U)/dz| = p (log p + H) ~ 1e-4
    norms = []
    for direction in DIRECTIONS:
        table = Table([[1.0] * 1000] * 2)
        table.log_p.data[0, 0] = 20.0
        loss = MaximizeEntropy(table, direction=direction, retain="none").losses(pack({"forget": [row([0], [0], [0])]}))
        loss["forget"].backward()
        norms.append(float(table.log_p.grad.norm()))
    assert norms[0] == pytest.approx(1.0, rel=0.01)
    assert norms[1] < 1e-3


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("scope", ["answer", "sequence"])
def test_against_dense(direction, scope):
    model = tiny()
    objective = MaximizeEntropy(model, direction=direction, scope=scope, forget_weight=0.25, retain_weight=2.0)

    def terms():
        padded = as_padded(ROWS)
        forget = uniform_forget(model, padded["forget"], direction=direction, scope=scope)
        kept = -dense(model, padded["retain"]).lp.mean()
        return {"loss": 0.25 * forget + 2.0 * kept, "forget": forget, "retain": kept}

    check_against_dense(objective, model, batches(), terms)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_padded_scope_averages_over_padding_like_the_authors_code(direction):
    model = tiny()
    objective = MaximizeEntropy(model, direction=direction, scope="padded", padded_length=20)
    padded = as_padded(ROWS, width=20)

    def terms():
        forget = uniform_forget(model, padded["forget"], direction=direction, scope="padded")
        kept = -dense(model, padded["retain"]).lp.mean()
        return {"loss": 0.1 * forget + kept, "forget": forget, "retain": kept}

    check_against_dense(objective, model, [padded, pack(ROWS)], terms)


@pytest.mark.parametrize("scope", ["answer", "sequence"])
def test_more_padding_changes_nothing(scope):
    """The authors' code averages over padding, so that the loss depends on the longest row of the batch."""
    objective = MaximizeEntropy(tiny(), scope=scope)
    narrow, wide = (objective.losses(as_padded(ROWS, width=width))["loss"].item() for width in (17, 40))
    assert wide == pytest.approx(narrow, rel=1e-9)


def test_a_memorised_row_gives_a_finite_gradient():
    table = Table([[1.0] * 4] * 4)
    table.log_p.data[0, 0] = 800.0
    losses = MaximizeEntropy(table, retain="none").losses(pack({"forget": [row([0], [0], [0])]}))
    losses["loss"].backward()
    assert torch.isfinite(table.log_p.grad).all()
    assert losses["forget"].item() == pytest.approx(800 * 3 / 4 - log(4))  # lse - mean - log V


@pytest.mark.parametrize("scope", ["answer", "sequence", "padded"])
def test_scales_of_the_step_are_used(scope):
    # Two copies of the rows are a whole step: a micro-batch of one copy weighs as much as the mean of the step.
    rows, model = ROWS["forget"], tiny()
    tokens = {
        "token": sum(len(r.targets) for r in rows),
        "row": 3,
        "sequence_token": sum(r.sequence_tokens for r in rows),
    }
    scale = RoleScale(**{name: 2 / (2 * count) for name, count in tokens.items()})
    objective = MaximizeEntropy(model, scope=scope, padded_length=20, retain="none")
    alone = objective.losses(pack({"forget": rows}))["loss"].item()
    scaled = objective.losses(pack({"forget": rows}, scales={"forget": scale}))["loss"].item()
    assert scaled == pytest.approx(alone)


def test_preparing_twice_is_harmless():
    """The Trainer prepares a batch on the host; `losses` does so again."""
    for scope in ("sequence", "padded"):
        objective = MaximizeEntropy(tiny(), scope=scope, padded_length=20)
        once = objective.packed(pack(ROWS))
        assert objective.losses(once)["loss"].item() == pytest.approx(objective.losses(pack(ROWS))["loss"].item())


@pytest.mark.parametrize(("pad", "eos", "expected"), [(5, 1, 5), (None, 7, 7), (None, [8, 9], 8), (-1, 7, 7)])
def test_the_pad_token_of_padded_scope(pad, eos, expected):
    model = tiny()
    model.config.pad_token_id, model.config.eos_token_id = pad, eos
    batch = MaximizeEntropy(model, scope="padded", padded_length=30).packed(pack(ROWS))
    assert batch.input_ids[batch.attended.logical_not()].unique().tolist() == [expected]


def test_padded_scope_needs_a_pad_token():
    with pytest.raises(ValueError, match="pad or eos token in its config, got neither"):
        MaximizeEntropy(Table(HALVES), scope="padded", retain="none").losses(pack({"forget": [row([0], [0], [0])]}))


def test_a_row_longer_than_padded_length_is_refused():
    with pytest.raises(ValueError, match=r"padded_length must be at least the longest row \(\d+ tokens\), got 4"):
        MaximizeEntropy(tiny(), scope="padded", padded_length=4).losses(pack(ROWS))


def test_defaults_are_those_of_tofu():
    objective = MaximizeEntropy(tiny())
    assert (objective.forget_weight, objective.retain_weight) == (0.1, 1.0)
    assert (objective.direction, objective.scope, objective.roles) == (DIRECTIONS[0], "answer", ("forget", "retain"))


@pytest.mark.parametrize("wrong", [{"direction": "forward"}, {"scope": "question"}, {"retain": "gd"}])
def test_unknown_choices_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got '{value}'"):
        MaximizeEntropy(tiny(), **wrong)
