"""Per-token vocabulary statistics from hidden states and an output head, without the [tokens, vocabulary] logits."""

from unlearn_kernels.linear import linear_token_statistics
from unlearn_kernels.logits import token_statistics
from unlearn_kernels.statistics import TokenStatistics

__all__ = ["TokenStatistics", "linear_token_statistics", "token_statistics"]
