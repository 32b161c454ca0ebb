"""Token entropy of an output: does it say something, or repeat itself?

Not to be confused with the entropy of the model's predictions, which samples call `token_predictive_entropy`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from lightning_unlearn.metrics.row_mean import RowMean


def token_entropy(tokens: Sequence[Hashable]) -> float:
    """Compute the entropy of an output's unigram distribution over log2 of its length, in [0, 1].

    1 when no token repeats; 0 when one token is repeated throughout, or for one token or fewer.
    Source: closer-look (arXiv 2410.08109, section 3).

    Args:
        tokens: the generated tokens (ids or strings), eos not among them.

    Example:
        >>> token_entropy(["the", "the", "cat", "sat"])
        0.75
    """
    if len(tokens) < 2:
        return 0.0
    shares = [count / len(tokens) for count in Counter(tokens).values()]
    return max(0.0, -sum(share * math.log2(share) for share in shares)) / math.log2(len(tokens))


class TokenEntropy(RowMean):
    """Mean over rows of the normalised unigram entropy of the generated tokens.

    In [0, 1]; higher is better (fluent, not repetitive). Source: closer-look (arXiv 2410.08109).

    Example:
        >>> metric = TokenEntropy()
        >>> metric.update([[1, 2, 3, 4], [7, 7, 7]])
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def update(self, outputs: Sequence[Sequence[Hashable]]) -> None:
        """Add rows: the tokens of each output."""
        self.add([token_entropy(tokens) for tokens in outputs])
