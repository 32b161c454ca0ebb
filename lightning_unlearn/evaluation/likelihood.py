"""How probable a model finds given answers: one packed forward a batch, no padding, no logits held.

Shapes: M rows to score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lightning_unlearn.data.packing import TokenRow, pack
from lightning_unlearn.forward import evaluating, token_statistics
from lightning_unlearn.parts import device_of, is_sharded
from lightning_unlearn.processes import gather

FIELDS = ("log_prob", "entropy")
_ANY = TokenRow(*(np.zeros(1, np.int64) for _ in range(3)))


@dataclass(frozen=True, slots=True)
class RowLikelihood:
    """Likelihood of one row's labelled tokens.

    Attributes:
        targets: the labelled tokens.
        log_prob: log probability of each labelled token, nats.
        entropy: entropy of the prediction at each, nats.
    """

    targets: list[int]
    log_prob: list[float]
    entropy: list[float]

    @property
    def nll(self) -> float:
        """Sum of -log p over the labelled tokens, nats."""
        return -sum(self.log_prob)

    @property
    def tokens(self) -> int:
        """Count of labelled tokens, eos included."""
        return len(self.log_prob)


@torch.no_grad()
def row_likelihoods(model: nn.Module, rows: Sequence[TokenRow], *, tokens_per_batch: int = 8192) -> list[RowLikelihood]:
    """Compute the likelihood of each row's labels, in the rows' order.

    The model is in eval mode meanwhile. Where it is sharded over processes, all of them must call this, each with rows
    of its own, or with none; those that share a tensor-parallel group with the same rows.

    Args:
        model: a causal LM, see `lightning_unlearn.forward`.
        rows: tokenised rows, M of them.
        tokens_per_batch: most tokens in a batch; a longer row gets a batch of its own.

    Raises:
        ValueError: if `tokens_per_batch` is below 1.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch must be at least 1, got {tokens_per_batch}")
    device = device_of(model)
    found: dict[int, RowLikelihood] = {}
    batches = list(_batches([len(row.input_ids) for row in rows], tokens_per_batch))
    if is_sharded(model):  # all make as many forwards: they share them
        batches += [[]] * (max(gather(len(batches))) - len(batches))
    with evaluating(model):
        for chosen in batches:
            batch = pack({"rows": [rows[i] for i in chosen] or [_ANY]}).to(device)
            statistics = token_statistics(model, batch, FIELDS)
            if chosen:
                counts = [len(rows[i].targets) for i in chosen]
                log_prob, entropy = (getattr(statistics, field).cpu().split(counts) for field in FIELDS)
                for i, *values in zip(chosen, log_prob, entropy, strict=True):
                    found[i] = RowLikelihood(rows[i].targets.tolist(), *(value.tolist() for value in values))
    return [found[i] for i in range(len(rows))]


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group rows of like length, so that a model that must pad pads little, within the budget of tokens."""
    batch: list[int] = []
    used = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and used + lengths[i] > budget:
            yield batch
            batch, used = [], 0
        batch.append(i)
        used += lengths[i]
    if batch:
        yield batch
