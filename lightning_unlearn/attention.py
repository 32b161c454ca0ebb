"""Attention over packed rows: each row attends to itself alone, without a [T, T] mask.

The function below is registered with transformers under one name. Called with `segment_lengths` (which models pass
through from our forward to every layer, also when gradient checkpointing repeats a layer) it runs causal attention row
by row; called without, as in generation, it is transformers' own scaled-dot-product attention with its usual mask.

Shapes: T packed tokens, H heads, K key-value heads, E head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "unlearn_packed"

_packing: ContextVar[bool] = ContextVar("unlearn_packing", default=False)


@contextmanager
def no_dense_mask() -> Iterator[None]:
    """Within it, models that use our attention build no mask: the segments say all there is to say."""
    token = _packing.set(True)
    try:
        yield
    finally:
        _packing.reset(token)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segment_lengths: tuple[int, ...] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options,
) -> tuple[Tensor, None]:
    """Causal attention of each segment with itself.

    Args:
        module: the attention layer (transformers' calling convention).
        query: [1, H, T, E].
        key: [1, K, T, E].
        value: [1, K, T, E].
        attention_mask: used only without `segment_lengths`.
        segment_lengths: tokens of each packed row, summing to T.
        scaling: factor of the scores (default 1 / sqrt(E)).
        dropout: probability of dropping an attention weight.
        options: what else the model passes on; a sliding window is longer than every row (see `forward`).

    Returns:
        [1, T, H, E] and None.

    Raises:
        ValueError: for an option that would change the result and is not supported.
    """
    if segment_lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ValueError(f"packed attention does not support {name}; use padded batches for this model")
    segments = zip(*(tensor.split(segment_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    parts = [_causal(q, k, v, scaling, dropout) for q, k, v in segments]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _causal(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, dropout: float) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)


def _mask(*args, **kwargs) -> Tensor | None:
    return None if _packing.get() else sdpa_mask(*args, **kwargs)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)
