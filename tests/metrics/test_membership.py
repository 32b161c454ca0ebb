"""Each attack's score by hand; that it is higher for members; and the statistics of Min-K++ from full distributions."""

import math

import pytest
import torch

from lightning_unlearn.metrics.auc import auc
from lightning_unlearn.metrics.membership import (
    MinK,
    MinKPlusPlus,
    gradient_norm_score,
    loss_score,
    min_k_plus_plus_score,
    min_k_score,
    reference_score,
    zlib_score,
)

LOG_PROB = [-1.0, -5.0, -2.0, -4.0, -3.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_scores_of_summed_nlls_by_hand():
    nll, tokens = torch.tensor([6.0, 2.0]), torch.tensor([3, 4])
    assert loss_score(nll, tokens).tolist() == [-2.0, -0.5]
    assert zlib_score(nll, torch.tensor([12, 8])).tolist() == [-0.5, -0.25]
    # mean NLLs 2 and 1/2 against 3 and 1/4
    assert reference_score(nll, torch.tensor([9.0, 1.0]), tokens).tolist() == [1.0, -0.25]
    assert gradient_norm_score(torch.tensor([0.5, 2.0])).tolist() == [-0.5, -2.0]


@pytest.mark.parametrize(
    ("k", "expected"),
    [(0.2, -4.5), (0.4, -3.5), (0.39, -4.0), (1.0, -1.5), (0.01, -5.0)],  # 2, 4, 3, 10 of 10 tokens; at least 1
)
def test_min_k_by_hand(k, expected):
    assert min_k_score(LOG_PROB, k=k) == pytest.approx(expected)


def test_min_k_plus_plus_from_full_distributions():
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 11, dtype=torch.float64), torch.randint(0, 11, (7,))
    log_p = logits.log_softmax(1)
    mean = (log_p.exp() * log_p).sum(1)
    variance = (log_p.exp() * (log_p - mean[:, None]).square()).sum(1)
    chosen = log_p[torch.arange(7), labels]
    expected = ((chosen - mean) / variance.sqrt()).sort().values[:2].mean()  # int(0.4 * 7) = 2
    assert min_k_plus_plus_score(chosen, mean, variance, k=0.4) == pytest.approx(expected.item())


def test_a_certain_prediction_is_no_division_by_zero():
    assert min_k_plus_plus_score([0.0], mean=[0.0], variance=[0.0]) == 0.0
    assert min_k_plus_plus_score([-2.0], mean=[0.0], variance=[0.0]) == pytest.approx(-2000)  # sigma counts as 1e-3


def test_every_score_is_higher_for_what_is_known():
    # members: every token at p = 1/2 and a gradient of 1; others: p = 1/8, a gradient of 4; same length and reference
    tokens, size, reference = torch.full((3,), 4), torch.full((3,), 30), torch.full((3,), 4 * math.log(4))
    known, unknown = (torch.full((3,), 4 * math.log(odds)) for odds in (2, 8))
    pairs = [
        (loss_score(known, tokens), loss_score(unknown, tokens)),
        (zlib_score(known, size), zlib_score(unknown, size)),
        (reference_score(known, reference, tokens), reference_score(unknown, reference, tokens)),
        (gradient_norm_score(torch.ones(3)), gradient_norm_score(4 * torch.ones(3))),
    ]
    for odds in (2, 8):
        column = [-math.log(odds)] * 4
        pairs += [(min_k_score(column), min_k_plus_plus_score(column, mean=[-1.0] * 4, variance=[1.0] * 4))]
    (known_min_k, known_plus), (unknown_min_k, unknown_plus) = pairs[-2:]
    pairs[-2:] = [
        (torch.tensor([known_min_k]), torch.tensor([unknown_min_k])),
        (torch.tensor([known_plus]), torch.tensor([unknown_plus])),
    ]
    assert [auc(members, others) for members, others in pairs] == [1.0] * 6


def test_metrics_are_means_of_rows():
    metric = MinK(k=0.4)
    metric.update([LOG_PROB])
    metric.update([[-0.5]])
    assert metric.compute().item() == pytest.approx(-2.0)  # of -3.5 and -0.5
    plus = MinKPlusPlus(k=1.0)
    plus.update([[-1.0, -3.0], [-4.0]], mean=[[-2.0, -2.0], [-2.0]], variance=[[1.0, 4.0], [4.0]])
    assert plus.compute().item() == pytest.approx((0.25 - 1) / 2)  # rows: (1 - 1/2) / 2 and -1


def test_errors():
    with pytest.raises(ValueError, match=r"k must be in \(0, 1\], got 0"):
        min_k_score([-1.0], k=0)
    with pytest.raises(ValueError, match=r"log_prob must hold the tokens of one text, got shape \(0,\)"):
        min_k_score([])
    with pytest.raises(ValueError, match=r"must have one shape, got \[\(2,\), \(1,\), \(1,\)\]"):
        min_k_plus_plus_score([-1.0, -2.0], mean=[0.0], variance=[1.0])
