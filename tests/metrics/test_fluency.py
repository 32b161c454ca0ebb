import math

import pytest

from lightning_unlearn.metrics.fluency import Fluency, fluency, ngram_entropy


def test_by_hand():
    # abcab: bigrams ab bc ca ab, shares 1/2 1/4 1/4: 1.5 bits; trigrams abc bca cab: log2 3
    assert ngram_entropy("abcab", 2) == pytest.approx(1.5)
    assert ngram_entropy("abcab", 3) == pytest.approx(math.log2(3))
    assert fluency("abcab") == pytest.approx(2 / 3 * 1.5 + 4 / 3 * math.log2(3))


def test_repetition_and_short_outputs_have_none():
    assert fluency("aaaaaa") == 0.0
    assert fluency("") == fluency("a") == fluency("ab") == 0.0
    assert fluency("abc") == pytest.approx(2 / 3)  # two bigrams, one trigram


def test_metric_splits_into_words_in_lower_case():
    metric = Fluency()
    metric.update(["Rome, Oslo; rome. OSLO!"])
    metric.update(["no no no"])
    assert metric.compute().item() == pytest.approx(fluency("abab") / 2)
