import math

import pytest
import torch

from lightning_unlearn.metrics.cosine_similarity import CosineSimilarity, cosine_similarity
from lightning_unlearn.metrics.sentence_encoder import lexical_encoder

VECTORS = {"east": [1.0, 0.0], "north": [0.0, 1.0], "northeast": [1.0, 1.0], "west": [-1.0, 0.0], "nowhere": [0.0, 0.0]}


def compass(texts):
    return torch.tensor([VECTORS[text] for text in texts])


def test_by_hand_negative_is_zero():
    outputs = ["east", "northeast", "west", "nowhere", "north"]
    found = cosine_similarity(outputs, ["east"] * 5, encoder=compass)
    assert found == pytest.approx([1.0, math.sqrt(0.5), 0.0, 0.0, 0.0])


def test_bags_of_words_by_hand():
    # "rome rome" . "in rome" = 2 / (2 * sqrt 2)
    assert cosine_similarity(["Rome, Rome!"], ["in rome"], encoder=lexical_encoder) == pytest.approx([math.sqrt(0.5)])
    assert cosine_similarity([""], ["in rome"], encoder=lexical_encoder) == [0.0]


def test_many_pairs_in_several_calls():
    outputs = [f"word{i}" for i in range(150)]
    targets = [f"word{i - i % 2}" for i in range(150)]
    assert cosine_similarity(outputs, targets, encoder=lexical_encoder) == [1.0 - i % 2 for i in range(150)]
    assert cosine_similarity([], [], encoder=lexical_encoder) == []


def test_metric_averages_rows():
    metric = CosineSimilarity(compass)
    metric.update(["east"], ["east"])
    metric.update(["west", "north"], ["east", "east"])
    assert metric.compute().item() == pytest.approx(1 / 3)


def test_errors():
    with pytest.raises(ValueError, match="outputs and targets must be of one length, got 1 and 0"):
        cosine_similarity(["a"], [], encoder=compass)
    with pytest.raises(
        ValueError, match=r"sentence_encoder must return \[2, dimensions\] for 2 texts, got shape \(2,\)"
    ):
        cosine_similarity(["a"], ["b"], encoder=lambda texts: torch.ones(len(texts)))
