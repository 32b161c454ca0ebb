import math

import pytest
import torch

from lightning_unlearn.metrics.options_probability import OptionsProbability, options_probability

# true answer: 2 tokens, 1/4 a token; wrong: 1/8 a token and 1/8 a token; second row lacks its second wrong answer
NLL = torch.tensor([2 * math.log(4), math.log(4)])
TOKENS = torch.tensor([2, 1])
WRONG = torch.tensor([[3 * math.log(8), math.log(8)], [math.log(4), 0.0]])
WRONG_TOKENS = torch.tensor([[3, 1], [1, 0]])


def test_true_share_of_length_normalised_probabilities():
    found = options_probability(NLL, TOKENS, WRONG, WRONG_TOKENS)
    torch.testing.assert_close(found, torch.tensor([0.25 / (0.25 + 0.125 + 0.125), 0.25 / (0.25 + 0.25)]))


def test_does_not_underflow_for_improbable_options():
    one = torch.ones(1, dtype=torch.long)
    nll = torch.tensor([500.0], dtype=torch.float64)
    assert options_probability(nll, one, (nll + math.log(3)).view(1, 1), one.view(1, 1)).item() == pytest.approx(0.75)


def test_metric_averages_rows():
    metric = OptionsProbability()
    metric.update(NLL[:1], TOKENS[:1], WRONG[:1], WRONG_TOKENS[:1])
    metric.update(torch.tensor([0.0]), torch.tensor([1]), torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[1, 1, 1]]))
    assert metric.compute().item() == pytest.approx((0.5 + 0.25) / 2)
