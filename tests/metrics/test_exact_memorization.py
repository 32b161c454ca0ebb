import pytest

from lightning_unlearn.metrics.exact_memorization import ExactMemorization, exact_memorization


def test_is_the_share_of_right_tokens():
    assert exact_memorization([1, 0, 1, 1, 0]) == 3 / 5
    assert exact_memorization([1, 1]) == 1.0
    assert exact_memorization([]) == 0.0


def test_metric_weighs_rows_alike_whatever_their_length():
    metric = ExactMemorization()
    metric.update([[1, 0, 0, 0], [1]])
    metric.update([[0, 0]])
    assert metric.compute().item() == pytest.approx((1 / 4 + 1 + 0) / 3)
