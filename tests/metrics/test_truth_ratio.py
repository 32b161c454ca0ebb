import math

import pytest
import torch

from lightning_unlearn.metrics import truth_ratio as tr

# paraphrase: 2 tokens, 1/2 a token. Wrong answers: 1/2 a token (3 tokens) and 1/8 a token (1 token).
# geometric mean of the wrong ones 1/4, arithmetic 5/16, so R = 1/2 and 5/8
NLL = torch.tensor([2 * math.log(2)])
TOKENS = torch.tensor([2])
WRONG = torch.tensor([[3 * math.log(2), math.log(8)]])
WRONG_TOKENS = torch.tensor([[3, 1]])


def test_both_forms_by_hand():
    assert tr.geometric_truth_ratio(NLL, TOKENS, WRONG, WRONG_TOKENS).item() == pytest.approx(1 / 2)
    assert tr.arithmetic_truth_ratio(NLL, TOKENS, WRONG, WRONG_TOKENS).item() == pytest.approx(5 / 8)


@pytest.mark.parametrize("form", [tr.geometric_truth_ratio, tr.arithmetic_truth_ratio])
def test_absent_wrong_answers_have_no_say(form):
    padded = form(
        NLL, TOKENS, torch.cat([WRONG, torch.zeros(1, 2)], 1), torch.cat([WRONG_TOKENS, torch.zeros(1, 2).long()], 1)
    )
    torch.testing.assert_close(padded, form(NLL, TOKENS, WRONG, WRONG_TOKENS))


def test_aggregates_by_hand():
    ratios = torch.tensor([0.5, 4.0, 1.0, 0.0, math.inf])
    assert tr.ratio_closeness(ratios).tolist() == [0.5, 0.25, 1.0, 0.0, 0.0]
    assert tr.ratio_distance(ratios).tolist() == [0.5, 0.75, 0.0, 1.0, 1.0]
    assert tr.ratio_utility(ratios).tolist() == [0.5, 0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("ratio", "score", "expected"),
    [
        (tr.geometric_truth_ratio, tr.ratio_utility, (1 / 2 + 0) / 2),
        (tr.geometric_truth_ratio, tr.ratio_closeness, (1 / 2 + 1 / 2) / 2),
        (tr.arithmetic_truth_ratio, tr.ratio_distance, (3 / 8 + 1 / 2) / 2),
    ],
)
def test_metric_averages_rows(ratio, score, expected):
    metric = tr.TruthRatio(ratio=ratio, row_score=score)
    metric.update(NLL, TOKENS, WRONG, WRONG_TOKENS)
    # R = (1/2) / (1/4) = 2
    metric.update(torch.tensor([math.log(4)]), torch.tensor([1]), torch.tensor([[math.log(2)]]), torch.tensor([[1]]))
    assert metric.compute().item() == pytest.approx(expected)


def test_errors():
    with pytest.raises(
        ValueError, match=r"wrong_tokens must hold at least one wrong answer a row, got none in rows \[0\]"
    ):
        tr.geometric_truth_ratio(NLL, TOKENS, WRONG, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"wrong_nll must have shape \[1, K\].*got \(2,\)"):
        tr.geometric_truth_ratio(NLL, TOKENS, WRONG[0], WRONG_TOKENS)
