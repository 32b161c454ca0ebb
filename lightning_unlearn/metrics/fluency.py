"""Fluency of an output: does it say new things, or the same few words again?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from lightning_unlearn.metrics.hub import words
from lightning_unlearn.metrics.row_mean import RowMean

WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def ngram_entropy(tokens: Sequence[Hashable], n: int) -> float:
    """Compute the entropy of the distribution of an output's n-grams, in bits; 0 where there is none.

    Example:
        >>> ngram_entropy(["a", "b", "a", "b"], 2)  # ab, ba, ab
        0.9182958340544896
    """
    counts = Counter(zip(*(tokens[at:] for at in range(n)), strict=False))
    total = sum(counts.values())
    return max(0.0, -sum(count / total * math.log2(count / total) for count in counts.values()))


def fluency(tokens: Sequence[Hashable]) -> float:
    """Compute 2/3 H2 + 4/3 H3, the weighted entropy of an output's bigrams and trigrams, in bits; at least 0.

    The higher, the less is repeated; a longer output has room for more. Source: RWKU (arXiv 2406.10890) and Meng et al.
    (arXiv 2202.05262), whose published code averages the two terms: half of this.

    Args:
        tokens: words or tokens of the output.

    Example:
        >>> fluency("to be to be".split())  # H2 of ab, ba, ab is 0.918; H3 of aba, bab is 1
        1.9455305560363263
    """
    return sum(weight * ngram_entropy(tokens, n) for n, weight in WEIGHTS.items())


class Fluency(RowMean):
    """Mean over rows of the weighted entropy of an output's bigrams and trigrams, words in lower case.

    In bits, at least 0; higher is better. Source: RWKU (arXiv 2406.10890).

    Example:
        >>> metric = Fluency()
        >>> metric.update(["no no no no", "One two three."])
        >>> metric.compute()
        tensor(0.3333)
    """

    higher_is_better = True

    def update(self, outputs: Sequence[str]) -> None:
        """Add rows: generated texts."""
        self.add([fluency(words(output)) for output in outputs])
