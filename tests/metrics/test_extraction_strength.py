import pytest

from lightning_unlearn.metrics.extraction_strength import (
    ExtractionStrength,
    extraction_strength,
    floored_extraction_strength,
)


@pytest.mark.parametrize(
    ("correct", "strength", "floored"),
    [
        ([1, 1, 1, 1], 1.0, 1.0),  # k = 0
        ([0, 1, 1, 1], 3 / 4, 3 / 4),  # k = 1
        ([1, 1, 0, 1], 1 / 4, 1 / 4),  # k = 3: what is right before a mistake does not count
        ([1, 1, 1, 0], 0.0, 1 / 4),  # k = n; the other code's search ends at n - 1
        ([0], 0.0, 1.0),
        ([], 0.0, 0.0),
    ],
)
def test_by_hand(correct, strength, floored):
    assert extraction_strength(correct) == strength
    assert floored_extraction_strength(correct) == floored


def test_is_the_least_k_after_which_all_is_right():
    for number in range(2**6):
        correct = [number >> bit & 1 for bit in range(6)]
        k = next(k for k in range(7) if all(correct[k:]))
        assert extraction_strength(correct) == pytest.approx(1 - k / 6)


def test_metric_with_both_floors():
    rows = [[0, 1, 1, 1], [1, 0]]
    for floor, expected in (("zero", 3 / 8), ("one_over_n", (3 / 4 + 1 / 2) / 2)):
        metric = ExtractionStrength(floor=floor)
        metric.update(rows)
        assert metric.compute().item() == pytest.approx(expected)
    with pytest.raises(ValueError, match='floor must be "zero" or "one_over_n", got "half"'):
        ExtractionStrength(floor="half")
