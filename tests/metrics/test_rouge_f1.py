import pytest

from lightning_unlearn.metrics.rouge_f1 import RougeF1, rouge_l_f1


def test_by_hand():
    # longest common subsequence "born in": 2 of 4 words of the output, 2 of 3 of the target
    assert rouge_l_f1("was born in Oslo", "born in Rome") == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert rouge_l_f1("Rome", "Oslo") == 0.0
    assert rouge_l_f1("", "Oslo") == 0.0


def test_words_are_not_stemmed():
    assert rouge_l_f1("writing novels", "write novel") == 0.0


def test_metric_is_the_mean_of_rows():
    metric = RougeF1()
    metric.update(["in Rome", "yes"], ["In Rome!", "no"])
    metric.update(["a b"], ["a"])
    assert metric.compute().item() == pytest.approx((1 + 0 + 2 / 3) / 3)
