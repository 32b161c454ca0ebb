"""Every statistic against numbers worked out by hand, for the dense definitions and for the package."""

import math

import pytest
import torch

from unlearn_kernels import linear_token_statistics, token_statistics
from unlearn_kernels.reference import DEFINITIONS, dense_linear_token_statistics, dense_token_statistics
from unlearn_kernels.statistics import FIELDS

# logits log 1, log 2, log 5: p = (1/8, 1/4, 5/8); reference log 2, 0, 0: q = (1/2, 1/4, 1/4); label 1
Z = [[math.log(1), math.log(2), math.log(5)]]
R = [[math.log(2), 0.0, 0.0]]
ENTROPY = math.log(8) / 8 + math.log(4) / 4 + 5 / 8 * math.log(8 / 5)
LOG_P = [math.log(1 / 8), math.log(1 / 4), math.log(5 / 8)]
BY_HAND = {
    "log_prob": math.log(1 / 4),
    "log_partition": math.log(8),
    "entropy": ENTROPY,
    "uniform_kl": math.log(8) - math.log(10) / 3 - math.log(3),
    "reference_kl": math.log(4) / 2 + math.log(1) / 4 + math.log(2 / 5) / 4,  # sum q log(q / p)
    "reverse_kl": math.log(1 / 4) / 8 + math.log(1) / 4 + 5 / 8 * math.log(5 / 2),  # sum p log(p / q)
    "reference_cross_entropy": -(LOG_P[0] / 2 + LOG_P[1] / 4 + LOG_P[2] / 4),
    "reference_log_prob": math.log(1 / 4),
    "max_logit": math.log(5),
    "mean_logit": math.log(10) / 3,
    "log_complement": math.log(3 / 4),
    "top_other_log_prob": math.log(5 / 8),
    "log_prob_variance": sum(p * x * x for p, x in zip((1 / 8, 1 / 4, 5 / 8), LOG_P, strict=True)) - ENTROPY**2,
    "top_token": 2,
}
H = ENTROPY
GRADIENT_BY_HAND = {
    "log_prob": [-1 / 8, 3 / 4, -5 / 8],
    "log_partition": [1 / 8, 1 / 4, 5 / 8],
    "entropy": [-(LOG_P[0] + H) / 8, -(LOG_P[1] + H) / 4, -5 / 8 * (LOG_P[2] + H)],
    "uniform_kl": [1 / 8 - 1 / 3, 1 / 4 - 1 / 3, 5 / 8 - 1 / 3],
    "reference_kl": [1 / 8 - 1 / 2, 0, 5 / 8 - 1 / 4],
    "reference_cross_entropy": [1 / 8 - 1 / 2, 0, 5 / 8 - 1 / 4],
    "reverse_kl": [
        (math.log(1 / 4) - BY_HAND["reverse_kl"]) / 8,
        (0 - BY_HAND["reverse_kl"]) / 4,
        5 / 8 * (math.log(5 / 2) - BY_HAND["reverse_kl"]),
    ],
    "max_logit": [0, 0, 1],
    "mean_logit": [1 / 3, 1 / 3, 1 / 3],
    "log_complement": [1 / 4 * 1 / 8 / (3 / 4), -1 / 4, 1 / 4 * 5 / 8 / (3 / 4)],
    "top_other_log_prob": [-1 / 8, -1 / 4, 3 / 8],
}


def head(function):
    """The logits as an identity head's."""
    eye = torch.eye(3, dtype=torch.float64)

    def call(logits, labels, *, reference_logits, **options):
        return function(logits, eye, labels, reference_hidden=reference_logits, **options)

    return call


WAYS = {
    "dense": dense_token_statistics,
    "dense_linear": head(dense_linear_token_statistics),
    "logits": token_statistics,
    "linear": head(linear_token_statistics),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("field", FIELDS)
def test_value_and_gradient_by_hand(way, field):
    z = torch.tensor(Z, dtype=torch.float64, requires_grad=True)
    r = torch.tensor(R, dtype=torch.float64)
    record = WAYS[way](z, torch.tensor([1]), statistics=(field,), reference_logits=r)
    value = getattr(record, field)
    assert value.shape == (1,)
    assert value.item() == pytest.approx(BY_HAND[field], abs=1e-12)
    assert all(getattr(record, other) is None for other in FIELDS if other != field)
    if field in GRADIENT_BY_HAND:
        (gradient,) = torch.autograd.grad(2 * value.sum(), z)  # an upstream gradient that is not 1
        assert gradient[0].tolist() == pytest.approx([2 * x for x in GRADIENT_BY_HAND[field]], abs=1e-12)
    else:
        assert not value.requires_grad


def test_every_field_has_a_definition():
    assert set(DEFINITIONS) == set(FIELDS) == set(BY_HAND)


def test_definitions_give_zero_for_ignored_tokens():
    z = torch.randn(2, 5, requires_grad=True)
    values = dense_token_statistics(z, torch.tensor([3, -100]), statistics=("log_prob", "entropy"))
    assert values.log_prob[1] == values.entropy[1] == 0
    (values.log_prob.sum() + values.entropy.sum()).backward()
    assert z.grad[1].tolist() == [0] * 5
    assert z.grad[0].abs().sum() > 0


def test_head_options_by_hand():
    # raw logits (1, 2) + bias (0, 1) = (1, 3), scaled by 2: (2, 6), capped at 4: 4 tanh(z / 4), over temperature 0.5
    capped = [4 * math.tanh(0.5) / 0.5, 4 * math.tanh(1.5) / 0.5]
    hidden, weight, bias = torch.tensor([[1.0, 2.0]]), torch.eye(2), torch.tensor([0.0, 1.0])
    for function in (linear_token_statistics, dense_linear_token_statistics):
        s = function(
            hidden,
            weight,
            torch.tensor([0]),
            statistics=("max_logit", "mean_logit"),
            bias=bias,
            softcap=4.0,
            logit_scale=2.0,
            temperature=0.5,
        )
        assert s.max_logit.item() == pytest.approx(capped[1], rel=1e-6)
        assert s.mean_logit.item() == pytest.approx(sum(capped) / 2, rel=1e-6)
