import math

import pytest

from lightning_unlearn.metrics.token_entropy import TokenEntropy, token_entropy


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], 0.0),
        ([5], 0.0),
        ([5, 5, 5], 0.0),
        ([1, 2, 3], 1.0),
        (["a", "b", "a", "b"], 0.5),  # 1 bit of 2
        ([1, 1, 1, 2], (0.75 * math.log2(4 / 3) + 0.25 * 2) / 2),
    ],
)
def test_by_hand(tokens, expected):
    assert token_entropy(tokens) == pytest.approx(expected)
    assert math.copysign(1, token_entropy(tokens)) == 1  # no -0.0


def test_metric_averages_rows():
    metric = TokenEntropy()
    metric.update([[1, 2, 3], [4, 4]])
    metric.update([["a", "b", "a", "b"]])
    assert metric.compute().item() == pytest.approx(0.5)
