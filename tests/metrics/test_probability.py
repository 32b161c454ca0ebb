import math

import pytest
import torch

from lightning_unlearn.metrics.probability import Probability, answer_probability, mean_nll

# rows: 2 tokens of probability 1/2 and 1/8 (geometric mean 1/4); 1 token of probability 1
NLL = torch.tensor([math.log(16), 0.0])
TOKENS = torch.tensor([2, 1])


def test_is_the_geometric_mean_of_token_probabilities():
    torch.testing.assert_close(answer_probability(NLL, TOKENS), torch.tensor([0.25, 1.0]))


def test_metric_weighs_rows_alike_over_uneven_updates():
    metric = Probability()
    metric.update(NLL, TOKENS)
    metric.update(torch.tensor([math.log(2)]), torch.tensor([1]))
    assert metric.compute().item() == pytest.approx((0.25 + 1 + 0.5) / 3)


def test_an_absent_text_has_probability_zero_and_an_answer_may_not_be_absent():
    assert mean_nll(torch.tensor([0.0]), torch.tensor([0])).tolist() == [math.inf]
    with pytest.raises(ValueError, match="tokens must be at least 1 for every answer, got 0"):
        Probability().update(torch.tensor([0.0]), torch.tensor([0]))


def test_errors():
    with pytest.raises(ValueError, match=r"nll and tokens must have one shape, got \(2,\) and \(1,\)"):
        answer_probability(NLL, TOKENS[:1])
    with pytest.raises(ValueError, match="tokens must be counts of at least 0, got -1"):
        answer_probability(NLL, torch.tensor([2, -1]))
