from __future__ import annotations

from math import log

import pytest
import torch

from lightning_unlearn.data.packing import pack
from lightning_unlearn.objectives.gradient_difference import GradientDifference
from tests.dense import HALVES, QUARTERS, ROWS, Table, as_padded, batches, check_against_dense, dense, row, tiny


def test_by_hand():
    # forget: log p(0|0) = -log 2; retain: -log p(3|1) = 2 log 2 and -log p(0|2) = 3 log 2
    batch = pack({"forget": [row([0], [0], [0])], "retain": [row([1, 2], [0, 1], [3, 0])]})
    losses = GradientDifference(Table(HALVES), forget_weight=0.5, retain_weight=2.0).losses(batch)
    assert losses["forget"].item() == pytest.approx(-log(2))
    assert losses["retain"].item() == pytest.approx(2.5 * log(2))
    assert losses["loss"].item() == pytest.approx(4.5 * log(2))  # 0.5 x -1 + 2 x 2.5


@pytest.mark.parametrize(("retain", "expected"), [("kl", 0.25 * log(2)), ("reverse_kl", 0.25 * log(2))])
def test_kl_by_hand(retain, expected):
    # KL(U||p) at token 0: log(1/4) - mean log p = -2 log 2 + (1 + 2 + 3 + 3)/4 log 2 = log(2)/4
    # KL(p||U) at token 0: log 4 - H = (2 - 1.75) log 2 = log(2)/4: the same here, with another gradient
    batch = pack({"forget": [row([1], [0], [0])], "retain": [row([0], [0], [2])]})
    losses = GradientDifference(Table(HALVES), retain=retain, reference=Table(QUARTERS)).losses(batch)
    assert losses["retain"].item() == pytest.approx(expected)


def retain_nll(model, reference, role):
    return -dense(model, role).lp.mean()


def retain_kl(model, reference, role):
    q, p = dense(reference, role).log_p.detach(), dense(model, role).log_p
    return (q.exp() * (q - p)).sum(-1).mean()


def retain_reverse_kl(model, reference, role):
    q, p = dense(reference, role).log_p.detach(), dense(model, role).log_p
    return (p.exp() * (p - q)).sum(-1).mean()


@pytest.mark.parametrize(
    ("retain", "term"), [("nll", retain_nll), ("kl", retain_kl), ("reverse_kl", retain_reverse_kl)]
)
def test_against_dense(retain, term):
    model, reference = tiny(), tiny(seed=1)
    objective = GradientDifference(model, retain=retain, forget_weight=0.3, retain_weight=1.7, reference=reference)

    def terms():
        padded = as_padded(ROWS)
        forget, kept = dense(model, padded["forget"]).lp.mean(), term(model, reference, padded["retain"])
        return {"loss": 0.3 * forget + 1.7 * kept, "forget": forget, "retain": kept}

    check_against_dense(objective, model, batches(), terms)


@pytest.mark.parametrize(
    ("arch", "options", "tolerance"),
    [
        ("llama", {"tie_word_embeddings": True}, 1e-9),
        ("phi", {}, 1e-9),  # a head with a bias
        ("granite", {"logits_scaling": 4.0}, 1e-9),
        # caps its logits, ties its embeddings; its masks overflow in float64
        ("gemma2", {"head_dim": 4, "query_pre_attn_scalar": 4, "dtype": torch.float32}, 2e-4),
    ],
)
def test_against_dense_with_other_heads(arch, options, tolerance):
    model, reference = tiny(arch, **options), tiny(arch, seed=1, **options)
    objective = GradientDifference(model, retain="kl", reference=reference)

    def terms():
        padded = as_padded(ROWS)
        forget, kept = dense(model, padded["forget"]).lp.mean(), retain_kl(model, reference, padded["retain"])
        return {"loss": forget + kept, "forget": forget, "retain": kept}

    check_against_dense(objective, model, batches()[:2], terms, tolerance=tolerance)


@pytest.mark.parametrize("retain", ["kl", "reverse_kl"])
def test_kl_is_zero_where_nothing_has_changed_and_positive_elsewhere(retain):
    """SOUL's and LLMU's "KL" is a cross-entropy, and MUSE's is taken on raw logits and can be negative."""
    model = tiny()
    objective = GradientDifference(model, retain=retain)
    losses = objective.losses(pack(ROWS))
    assert losses["retain"].item() == pytest.approx(0, abs=1e-9)
    for seed in range(1, 6):
        other = GradientDifference(model, retain=retain, reference=tiny(seed=seed))
        assert other.losses(pack(ROWS))["retain"] > 0.01


@pytest.mark.parametrize("retain", ["nll", "kl", "reverse_kl"])
def test_more_padding_changes_nothing(retain):
    """Five of six existing code bases average KL over prompt and padding."""
    objective = GradientDifference(tiny(), retain=retain, reference=tiny(seed=1))
    narrow, wide = (objective.losses(as_padded(ROWS, width=width)) for width in (17, 40))
    for name, value in narrow.items():
        assert wide[name].item() == pytest.approx(value.item(), rel=1e-9), name


def test_defaults():
    objective = GradientDifference(tiny())
    assert (objective.forget_weight, objective.retain_weight, objective.roles) == (1.0, 1.0, ("forget", "retain"))
    assert not objective.needs_reference
