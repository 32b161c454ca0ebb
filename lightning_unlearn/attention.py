"""Attention over packed rows: each row attends to itself alone, without a [T, T] mask.

The function below is registered with transformers under one name. Called with `segment_lengths` (which models pass
through from our forward to every layer, also when gradient checkpointing repeats a layer) it runs causal attention row
by row (`varlen.py`); called without, as in generation, it is transformers' own scaled-dot-product attention with its
usual mask, or the same with a soft cap where the model asks for one.

Shapes: T packed tokens, H heads, K key-value heads, E head size, B rows, L queries, S keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lightning_unlearn.varlen import Rules, capped_attention, varlen_attention

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
    segment_parents: tuple[int, ...] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options,
) -> tuple[Tensor, None]:
    """Causal attention of each segment with itself, and with the one that it continues.

    Args:
        module: the attention layer (transformers' calling convention).
        query: [1, H, T, E] ([B, H, L, E] without `segment_lengths`).
        key: [1, K, T, E] ([B, K, S, E]).
        value: [1, K, T, E] ([B, K, S, E]).
        attention_mask: used only without `segment_lengths`; boolean, True where a key is seen.
        segment_lengths: tokens of each packed row, summing to T.
        segment_parents: number of the row that each continues and attends to, -1 for none; None: none does.
        scaling: factor of the scores (default 1 / sqrt(E)).
        dropout: probability of dropping an attention weight.
        sliding_window: tokens that each token sees, itself included.
        softcap: cap on the scores, softcap * tanh(scores / softcap).
        options: what else the model passes on.

    Returns:
        [1, T, H, E] ([B, L, H, E]) and None.

    Raises:
        ValueError: for an option that would change the result and is not supported.
    """
    for name in ("s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ValueError(f"attention does not support {name}; choose attn_implementation='eager' for this model")
    rules = Rules(scaling, dropout, sliding_window, softcap)
    if segment_lengths is not None:
        return varlen_attention(query[0], key[0], value[0], segment_lengths, rules, segment_parents)[None], None
    if softcap is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
    if attention_mask is None:  # transformers leaves out the mask that says no more than causal
        attention_mask = query.new_ones(query.shape[2], key.shape[2]).bool().tril(key.shape[2] - query.shape[2])
    return capped_attention(query, key, value, attention_mask, rules).transpose(1, 2).contiguous(), None


def _mask(*args, **kwargs) -> Tensor | None:
    return None if _packing.get() else sdpa_mask(*args, **kwargs)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)
