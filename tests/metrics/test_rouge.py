import pytest

from lightning_unlearn.metrics.rouge import Rouge, rouge_recall


def test_recall_by_hand_with_stems():
    # target 4 words; output has "born" and "in" in order, "rome" first: ROUGE-1 3/4, longest common subsequence 2
    found = rouge_recall("Rome is where she was born in", "born in sunny Rome")
    assert found.rouge1 == pytest.approx(3 / 4)
    assert found.rougeL == pytest.approx(2 / 4)
    assert rouge_recall("writing novels", "writes a novel").rouge1 == pytest.approx(2 / 3)  # stemmed


def test_is_recall_of_the_target_and_not_of_the_output():
    assert rouge_recall("Paris and a long story about other things", "Paris").rougeL == 1.0
    assert rouge_recall("Paris", "Paris is the capital").rougeL == pytest.approx(1 / 4)
    assert rouge_recall("", "Paris") == (0.0, 0.0)
    assert rouge_recall("Paris", "?!") == (0.0, 0.0)


def test_metric_averages_rows():
    metric = Rouge()
    metric.update(["Paris"], ["Paris is the capital"])
    metric.update(["in Rome", "no"], ["Rome", "yes"])
    values = metric.compute()
    assert {key: value.item() for key, value in values.items()} == pytest.approx(
        {"rouge1_recall": 1.25 / 3, "rougeL_recall": 1.25 / 3}
    )
    with pytest.raises(ValueError, match="outputs and targets must be of one length, got 1 and 2"):
        metric.update(["a"], ["a", "b"])
