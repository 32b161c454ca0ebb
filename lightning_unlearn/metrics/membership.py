"""Membership attacks: scores that guess whether a model was trained on a text.

All have one orientation: the higher, the more the text looks like one that the model was trained on. What an attack is
worth is its AUC between such texts and others, `lightning_unlearn.metrics.auc`.

Shapes: B rows, N tokens of a row. NLLs are sums in nats.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_unlearn.metrics.probability import mean_nll
from lightning_unlearn.metrics.row_mean import RowMean

LEAST_VARIANCE = 1e-6  # nats^2; below it a prediction is certain, and its variance is rounding


def loss_score(nll: Tensor, tokens: Tensor) -> Tensor:
    """Compute the mean log-probability a token of each text, nats: [B], at most 0. The LOSS attack.

    Source: Yeom et al. (arXiv 1709.01604).

    Args:
        nll: [B] summed NLLs.
        tokens: [B] labelled tokens.

    Example:
        >>> loss_score(torch.tensor([2.0]), torch.tensor([4]))
        tensor([-0.5000])
    """
    return -mean_nll(nll, tokens)


def zlib_score(nll: Tensor, compressed_bytes: Tensor) -> Tensor:
    """Compute the log-probability of each text a byte of its zlib-compressed form, nats: [B], at most 0.

    A text that is probable because it is simple compresses well, and so is not taken for a known one. Source: Carlini
    et al. (arXiv 2012.07805).

    Args:
        nll: [B] summed NLLs.
        compressed_bytes: [B] bytes of the compressed texts.

    Example:
        >>> zlib_score(torch.tensor([2.0]), torch.tensor([20]))
        tensor([-0.1000])
    """
    return -mean_nll(nll, compressed_bytes)


def min_k_score(log_prob: Sequence[float] | Tensor, *, k: float = 0.2) -> float:
    """Compute the mean log-probability of the share `k` of a text's tokens that are least probable, nats; at most 0.

    A text that was not trained on has a few tokens that surprise. The number of tokens is rounded down, and at least
    1. Source: Min-K% Prob (arXiv 2310.16789).

    Args:
        log_prob: [N] of the text's tokens.
        k: share of them, in (0, 1].

    Raises:
        ValueError: for a text without tokens, or a share outside its range.

    Example:
        >>> min_k_score([-1.0, -4.0, 0.0, -2.0], k=0.5)
        -3.0
    """
    if not 0 < k <= 1:
        raise ValueError(f"k must be in (0, 1], got {k}")
    values = torch.as_tensor(log_prob, dtype=torch.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"log_prob must hold the tokens of one text, got shape {tuple(values.shape)}")
    return values.topk(max(1, int(k * len(values))), largest=False).values.mean().item()


def min_k_plus_plus_score(
    log_prob: Sequence[float] | Tensor,
    mean: Sequence[float] | Tensor,
    variance: Sequence[float] | Tensor,
    *,
    k: float = 0.2,
) -> float:
    """Compute the Min-K score of (log p - mu) / sigma, in standard deviations: how a token does among its alternatives.

    mu and sigma^2 are mean and variance of log p under the prediction p itself. A token that was trained on is a mode
    of its prediction. Source: Min-K%++ (arXiv 2404.02936).

    Args:
        log_prob: [N] of the text's tokens, nats.
        mean: [N] mean of log p under each prediction, that is minus its entropy, nats.
        variance: [N] variance of log p under each prediction, nats^2; less than 1e-6 counts as so much.
        k: share of the tokens with the lowest values that are averaged, in (0, 1].

    Raises:
        ValueError: for columns of different lengths, and as `min_k_score` does.

    Example:
        >>> min_k_plus_plus_score([-1.0, -3.0], mean=[-2.0, -2.0], variance=[4.0, 4.0], k=0.5)
        -0.5
    """
    values, mu, spread = (torch.as_tensor(column, dtype=torch.float64) for column in (log_prob, mean, variance))
    if not values.shape == mu.shape == spread.shape:
        shapes = [tuple(column.shape) for column in (values, mu, spread)]
        raise ValueError(f"log_prob, mean and variance must have one shape, got {shapes}")
    return min_k_score((values - mu) / spread.clamp(min=LEAST_VARIANCE).sqrt(), k=k)


def reference_score(nll: Tensor, reference_nll: Tensor, tokens: Tensor) -> Tensor:
    """Compute how much more probable each text is than to a reference model, nats a token: [B].

    The difference of both models' mean NLLs: what any model finds probable is not taken for known. Source: Carlini et
    al. (arXiv 2012.07805).

    Args:
        nll: [B] summed NLLs.
        reference_nll: [B] of the same tokens under a model that was not trained on the texts.
        tokens: [B] labelled tokens.

    Example:
        >>> reference_score(torch.tensor([2.0]), torch.tensor([6.0]), torch.tensor([4]))
        tensor([1.])
    """
    return mean_nll(reference_nll, tokens) - mean_nll(nll, tokens)


def gradient_norm_score(norm: Tensor) -> Tensor:
    """Compute minus the L2 norm of the gradient of each text's mean NLL over all parameters: [B], at most 0.

    The gradient of a text that was trained on has become small. Source: open-unlearning (arXiv 2506.12618), with the
    global norm.

    Example:
        >>> gradient_norm_score(torch.tensor([3.0]))
        tensor([-3.])
    """
    return -norm


class MinK(RowMean):
    """Mean over rows of the Min-K score.

    At most 0, nats; the higher, the better known are the texts. Source: Min-K% Prob (arXiv 2310.16789).

    Args:
        k: share of a text's tokens, in (0, 1].

    Example:
        >>> metric = MinK(k=0.5)
        >>> metric.update([[-1.0, -4.0, 0.0, -2.0], [-1.0]])
        >>> metric.compute()
        tensor(-2.)
    """

    def __init__(self, *, k: float = 0.2) -> None:
        super().__init__()
        self.k = k

    def update(self, log_prob: Sequence[Sequence[float]]) -> None:
        """Add rows: the log-probabilities of each text's tokens."""
        self.add([min_k_score(row, k=self.k) for row in log_prob])


class MinKPlusPlus(RowMean):
    """Mean over rows of the Min-K++ score.

    In standard deviations; the higher, the better known are the texts. Source: Min-K%++ (arXiv 2404.02936).

    Args:
        k: share of a text's tokens, in (0, 1].

    Example:
        >>> metric = MinKPlusPlus(k=0.5)
        >>> metric.update([[-1.0, -3.0]], mean=[[-2.0, -2.0]], variance=[[4.0, 4.0]])
        >>> metric.compute()
        tensor(-0.5000)
    """

    def __init__(self, *, k: float = 0.2) -> None:
        super().__init__()
        self.k = k

    def update(
        self,
        log_prob: Sequence[Sequence[float]],
        mean: Sequence[Sequence[float]],
        variance: Sequence[Sequence[float]],
    ) -> None:
        """Add rows: log-probability, mean and variance for each text's tokens."""
        rows = zip(log_prob, mean, variance, strict=True)
        self.add([min_k_plus_plus_score(*row, k=self.k) for row in rows])
