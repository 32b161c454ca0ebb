"""Causal attention within each of several rows that lie end to end: the kernels that can do it, best first.

A kernel says by its arguments alone whether it serves a call; on a CPU, and where none does, rows are taken one by one.
Sliding windows and soft caps are part of every result, never left out.

Shapes: T packed tokens, S keys (T, or more where rows continue others), H heads, K key-value heads, E head size,
L tokens of one row, M keys that it sees.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Rules:
    """What changes attention's result beside its inputs.

    Attributes:
        scaling: factor of the scores, None for 1 / sqrt(E).
        dropout: probability of dropping an attention weight.
        window: a token sees itself and the `window` - 1 tokens before it; None for all before it.
        softcap: scores become softcap * tanh(scores / softcap); None for no cap.
    """

    scaling: float | None = None
    dropout: float = 0.0
    window: int | None = None
    softcap: float | None = None

    @property
    def left(self) -> int:
        """Tokens seen before the token itself, -1 for all."""
        return -1 if self.window is None else self.window - 1


@dataclass(frozen=True)
class Lengths:
    """How long rows are.

    Attributes:
        queries: tokens of each row, summing to T.
        keys: tokens that it sees, its own being the last of them, summing to S.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    rules: Rules,
    parents: tuple[int, ...] | None = None,
) -> Tensor:
    """Attend within each row.

    Args:
        query: [H, T, E].
        key: [K, T, E].
        value: [K, T, E].
        lengths: tokens of each row, summing to T.
        rules: scale, dropout, sliding window, soft cap.
        parents: number of the row that each row continues, whose tokens it sees before its own; -1 for none. None: no
            row continues another.

    Returns:
        [T, H, E].
    """
    rows = Lengths(lengths, lengths)
    if parents is not None:
        rows, index = _continued(lengths, parents, key.device)
        key, value = key.index_select(1, index), value.index_select(1, index)
    for serves, attend in KERNELS:
        if serves(query, rules):
            return attend(query, key, value, rows, rules)
    return row_by_row(query, key, value, rows, rules)


@lru_cache(maxsize=8)
def _continued(lengths: tuple[int, ...], parents: tuple[int, ...], device: torch.device) -> tuple[Lengths, Tensor]:
    """Where the keys of rows lie that see their parents' too: int64 [S]."""
    starts = [0, *accumulate(lengths)]
    seen = [[*([parent] if parent >= 0 else []), row] for row, parent in enumerate(parents)]
    index = [torch.arange(starts[i], starts[i + 1]) for rows in seen for i in rows]
    return Lengths(lengths, tuple(sum(lengths[i] for i in rows) for rows in seen)), torch.cat(index).to(device)


def row_by_row(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, rules: Rules) -> Tensor:
    """PyTorch's attention on one row after another: [T, H, E].

    Args:
        query: [H, T, E].
        key: [K, S, E].
        value: [K, S, E].
        lengths: of queries and keys.
        rules: scale, dropout, sliding window, soft cap.
    """
    keys, values = (x.split(lengths.keys, dim=1) for x in (key, value))
    rows = zip(query.split(lengths.queries, dim=1), keys, values, strict=True)
    return torch.cat([_row(q, k, v, rules) for q, k, v in rows], dim=1).transpose(0, 1).contiguous()


def _row(q: Tensor, k: Tensor, v: Tensor, rules: Rules) -> Tensor:
    length, keys = q.shape[1], k.shape[1]
    window = rules.window if rules.window is not None and rules.window < keys else None
    if rules.softcap is not None:
        return capped_attention(q, k, v, _seen(length, keys, window, q.device), rules)
    options = {"dropout_p": rules.dropout, "scale": rules.scaling, "enable_gqa": q.shape[0] != k.shape[0]}
    causal = window is None and length == keys
    masking = {"is_causal": True} if causal else {"attn_mask": _seen(length, keys, window, q.device)}
    return F.scaled_dot_product_attention(q[None], k[None], v[None], **options, **masking)[0]


def capped_attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, rules: Rules) -> Tensor:
    """Attention with a soft cap on its scores (Gemma 2), written out.

    Args:
        query: [..., H, L, E].
        key: [..., K, S, E].
        value: [..., K, S, E].
        seen: which keys each query sees, boolean, broadcast to [..., H, L, S].
        rules: scale, dropout, soft cap.

    Returns:
        [..., H, L, E].
    """
    groups = query.shape[-3] // key.shape[-3]
    key, value = (x.repeat_interleave(groups, dim=-3) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if rules.scaling is None else rules.scaling
    scores = query @ key.transpose(-1, -2) * scale
    if rules.softcap is not None:
        scores = rules.softcap * torch.tanh(scores / rules.softcap)
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return F.dropout(weights, rules.dropout) @ value


@lru_cache(maxsize=256)
def _seen(length: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """[L, M]: token i, which stands at i + M - L, sees the `window` keys up to itself."""
    earlier = keys - length
    seen = torch.ones(length, keys, dtype=torch.bool, device=device).tril(earlier)
    return seen if window is None else seen.triu(earlier + 1 - window)


@lru_cache(maxsize=8)
def _starts(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where each row begins, and the end, int32; made once a batch and not once a layer."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


# -- kernels of a GPU --


@cache
def _installed(module: str) -> bool:
    return find_spec(module) is not None


def _half_on_cuda(query: Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] <= 256


def _serves_flash_3(query: Tensor, rules: Rules) -> bool:
    hopper = _half_on_cuda(query) and torch.cuda.get_device_capability(query.device)[0] == 9
    return hopper and rules.dropout == 0 and _installed("flash_attn_interface")


def _flash_3(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, rules: Rules) -> Tensor:
    from flash_attn_interface import flash_attn_varlen_func

    found = flash_attn_varlen_func(*_flash_arguments(query, key, value, lengths), **_flash_options(rules))
    return found[0] if isinstance(found, tuple) else found


def _serves_flash_2(query: Tensor, rules: Rules) -> bool:
    return _half_on_cuda(query) and _installed("flash_attn")


def _flash_2(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, rules: Rules) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    options = {"dropout_p": rules.dropout, **_flash_options(rules)}
    return flash_attn_varlen_func(*_flash_arguments(query, key, value, lengths), **options)


def _flash_arguments(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths) -> tuple:
    """Tensors and lengths; where there are more keys than queries, the last of both belong together."""
    starts = (_starts(lengths.queries, query.device), _starts(lengths.keys, query.device))
    return *(x.transpose(0, 1) for x in (query, key, value)), *starts, max(lengths.queries), max(lengths.keys)


def _flash_options(rules: Rules) -> dict:
    options = {"softmax_scale": rules.scaling, "causal": True, "window_size": (rules.left, 0 if rules.window else -1)}
    return {**options, "softcap": rules.softcap or 0.0}


@cache
def _torch_varlen() -> Callable[..., Tensor] | None:
    """PyTorch's varlen attention, where it is new enough to take windows and a scale."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return (
        varlen_attn
        if {"window_size", "scale", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)
        else None
    )


def _serves_torch(query: Tensor, rules: Rules) -> bool:
    plain = rules.dropout == 0 and rules.softcap is None
    return _half_on_cuda(query) and plain and _torch_varlen() is not None


def _torch(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, rules: Rules) -> Tensor:
    options = {"scale": rules.scaling, "window_size": (rules.left, 0), "enable_gqa": query.shape[0] != key.shape[0]}
    return _torch_varlen()(*_flash_arguments(query, key, value, lengths), **options)


def _serves_flex(query: Tensor, rules: Rules) -> bool:
    return query.is_cuda and query.dtype != torch.float64 and rules.dropout == 0


def flex(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, rules: Rules) -> Tensor:
    """PyTorch's flex attention, compiled on a GPU; see `row_by_row`."""
    attend, softcap = _flex_attention(query.is_cuda), rules.softcap

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    found = attend(
        query[None],
        key[None],
        value[None],
        score_mod=None if softcap is None else capped,
        block_mask=_block_mask(lengths, rules.window, query.device),
        scale=rules.scaling,
        enable_gqa=query.shape[0] != key.shape[0],
    )
    return found[0].transpose(0, 1).contiguous()


@cache
def _flex_attention(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention


@lru_cache(maxsize=8)
def _block_mask(lengths: Lengths, window: int | None, device: torch.device) -> object:
    from torch.nn.attention.flex_attention import create_block_mask

    earlier = [keys - queries for queries, keys in zip(lengths.queries, lengths.keys, strict=True)]
    row, place = _rows_and_places(lengths.queries, device)
    place = place + torch.tensor(earlier, device=device)[row]
    key_row, key_place = _rows_and_places(lengths.keys, device)

    def seen(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        age = place[i] - key_place[j]
        same = (row[i] == key_row[j]) & (age >= 0)
        return same if window is None else same & (age < window)

    return create_block_mask(seen, None, None, len(row), len(key_row), device=device)


def _rows_and_places(lengths: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The row of each token, and its place within the row."""
    row = torch.repeat_interleave(torch.tensor(lengths, device=device))
    return row, torch.arange(len(row), device=device) - _starts(lengths, device)[:-1][row]


Kernel = tuple[Callable[[Tensor, Rules], bool], Callable[[Tensor, Tensor, Tensor, Lengths, Rules], Tensor]]
KERNELS: tuple[Kernel, ...] = (
    (_serves_flash_3, _flash_3),
    (_serves_flash_2, _flash_2),
    (_serves_torch, _torch),
    (_serves_flex, flex),
)
