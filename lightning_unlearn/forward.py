"""The forward pass of a causal language model: one forward of the trunk serves all roles of a step.

The head sees labelled tokens only, through `unlearn_kernels`; it is apart, in `head.py`.

Shapes: T packed tokens, N labelled tokens, D hidden size, V vocabulary, B rows, L padded length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_unlearn import attention
from lightning_unlearn.data.packing import PackedBatch
from lightning_unlearn.head import HasTrunk, causal_lm, output_head
from lightning_unlearn.layers import FINAL, Layer, reading
from lightning_unlearn.mixture import load_balancing_loss
from lightning_unlearn.parts import is_sharded
from unlearn_kernels import TokenStatistics


def hidden_states(model: nn.Module, batch: PackedBatch) -> Tensor:
    """Run the trunk once over every row of the batch and return the hidden states [N, D] that predict its targets.

    Rows are packed end to end where the model's attention can keep them apart, and right-padded otherwise; which of
    the two is decided by trying both on a few tokens the first time a model is seen, together with a check of its
    output head. A batch without rows gets none, from a forward of one token: sharded processes wait for each other.
    """
    return run_trunk(model, batch)[0][FINAL]


def run_trunk(
    model: nn.Module, batch: PackedBatch, *, layers: Iterable[Layer] = (FINAL,), balance: bool = False
) -> tuple[dict[Layer, Tensor], Tensor | None]:
    """The same of chosen layers, in the dtype of the model; no layer is run after the last of them.

    Args:
        model: see `HasTrunk`, of which only `FINAL` can be read.
        batch: rows on the model's device.
        layers: see `layers.layer_index`; `FINAL` is the states that the output head sees.
        balance: whether the load-balancing loss of a mixture-of-experts model is wanted, a scalar over all tokens of
            the batch; without it the second result is None.

    Raises:
        ValueError: for a layer that does not exist.
    """
    layers, present = tuple(layers), bool(batch.lengths)
    if not present:
        token = batch.input_ids.new_zeros(1)
        batch = replace(batch, input_ids=token, position_ids=token, lengths=(1,))
    inner = causal_lm(model)
    _check_once(inner, batch.input_ids.device)
    packed = _use_packing(inner, batch)
    with reading(inner, layers) as found:
        last, loss = (_packed_forward if packed else _padded_forward)(inner, batch, balance)
    states: dict[Layer, Tensor] = {FINAL: last.index_select(0, batch.target_index)} if FINAL in layers else {}
    if found:
        index = batch.target_index if packed else batch.padded()[2].index_select(0, batch.target_index)
        states |= {layer: value.flatten(0, 1).index_select(0, index) for layer, value in found.items()}
    return states, None if loss is None else loss * present


def token_statistics(
    model: nn.Module, batch: PackedBatch, statistics: tuple[str, ...] = ("log_prob",), **options
) -> TokenStatistics:
    """Compute statistics of every labelled token in one forward: float32 fields [N], in the order of `batch.targets`.

    Args:
        model: see `HasTrunk`.
        batch: rows on the model's device.
        statistics: fields of `TokenStatistics`.
        options: passed on to `unlearn_kernels.linear_token_statistics`.
    """
    return output_head(model).statistics(hidden_states(model, batch), batch.targets, statistics, **options)


# What our attention may take the place of, once a try has shown that the results are the same.
REPLACED = (attention.NAME, "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it the model is in eval mode (no dropout); afterwards every submodule is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


_packs: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # model -> whether packing was seen to be right
_packs_beyond_window: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # the same for longer rows
_shares: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # the same for rows that continue others


@torch.no_grad()
def shares_prefixes(model: nn.Module, longest: int, device: torch.device) -> bool:
    """Tell whether the model can run rows that continue others, see `data.prefixes`; found by a try, once.

    Args:
        model: see `HasTrunk`.
        longest: tokens of the longest row, its parent's counted.
        device: where the model computes.
    """
    inner = causal_lm(model)
    _check_once(inner, device)
    if not _packs[inner]:
        return False
    if inner not in _shares:
        whole, parent = _probe(min(output_head(inner).weight.shape[0], 97), device, (7,)), (-1, 0)
        parts = replace(whole, lengths=(4, 3), parents=parent)
        with evaluating(inner):
            _shares[inner] = _close(_packed_forward(inner, parts)[0], _padded_forward(inner, whole)[0])
    window = getattr(inner.config.get_text_config(), "sliding_window", None)
    return _shares[inner] and (not window or longest <= window or _agrees_beyond(inner, window, device))


def _use_packing(inner: nn.Module, batch: PackedBatch) -> bool:
    if batch.parents is not None:
        return True
    if batch.attended is not None or not _packs[inner]:
        return False
    window = getattr(inner.config.get_text_config(), "sliding_window", None)
    return not window or max(batch.lengths) <= window or _agrees_beyond(inner, window, batch.input_ids.device)


@torch.no_grad()
def _agrees_beyond(inner: nn.Module, window: int, device: torch.device) -> bool:
    """A model may keep its window in the mask alone, and we make no mask."""
    if inner in _packs_beyond_window:
        return _packs_beyond_window[inner]
    probe = _probe(min(output_head(inner).weight.shape[0], 97), device, (3, window + 5))
    with evaluating(inner):
        same = _close(_packed_forward(inner, probe)[0], _padded_forward(inner, probe)[0])
    _packs_beyond_window[inner] = same
    return same


def _trunk(inner: PreTrainedModel) -> Callable[..., Any]:
    """The model without its head; one that is sharded gathers its weights for it, see `sharding.py`."""
    return getattr(inner, "run_trunk", inner.base_model)


def _packed_forward(inner: nn.Module, batch: PackedBatch, balance: bool = False) -> tuple[Tensor, Tensor | None]:
    """Hidden states of all tokens, [T, D], and the load-balancing loss if it is wanted."""
    with attention.no_dense_mask():
        output = _trunk(inner)(
            input_ids=batch.input_ids.unsqueeze(0),
            position_ids=batch.position_ids.unsqueeze(0),
            use_cache=False,
            segment_lengths=batch.lengths,
            **({} if batch.parents is None else {"segment_parents": batch.parents}),
            **({"output_router_logits": True} if balance else {}),
        )
    loss = load_balancing_loss(inner, output.router_logits, None) if balance else None
    return output.last_hidden_state.squeeze(0), loss


def _padded_forward(inner: nn.Module, batch: PackedBatch, balance: bool = False) -> tuple[Tensor, Tensor | None]:
    """See `_packed_forward`."""
    ids, mask, place = batch.padded()
    if isinstance(inner, HasTrunk):
        return inner.hidden_states(ids, mask).flatten(0, 1).index_select(0, place), None
    routers = {"output_router_logits": True} if balance else {}
    output = _trunk(inner)(input_ids=ids, attention_mask=mask, use_cache=False, **routers)
    loss = load_balancing_loss(inner, output.router_logits, mask) if balance else None
    return output.last_hidden_state.flatten(0, 1).index_select(0, place), loss


@torch.no_grad()
def _check_once(inner: nn.Module, device: torch.device) -> None:
    """Try packing and the head on two short rows: models that do it otherwise are found here, never silently wrong."""
    if inner in _packs:
        return
    if isinstance(inner, HasTrunk):
        _packs[inner] = False
        return
    head, name = output_head(inner), type(inner).__name__
    wrap = "wrap it in a module with hidden_states() and output_head()"
    if inner.base_model is inner:
        raise ValueError(f"model: the trunk of {name} cannot be told from its head; {wrap}")
    probe = _probe(min(head.weight.shape[0], 97), device)
    with evaluating(inner):
        ids, mask, place = probe.padded()
        alone, _ = _padded_forward(inner, probe)
        logits = inner(input_ids=ids, attention_mask=mask, use_cache=False).logits.flatten(0, 1)[place]
        if not _close(head.logits(alone), logits):
            raise ValueError(
                f"model: the logits of {name} are not its output head applied to its last hidden states; {wrap}"
            )
        _packs[inner] = _can_pack(inner) and _packing_agrees(inner, probe, alone)
    if _packs[inner] and is_sharded(inner):  # all at once: later, who has longer rows would wait for the others
        config = inner.config.get_text_config()
        window, longest = getattr(config, "sliding_window", None), getattr(config, "max_position_embeddings", inf)
        if window and window < longest:
            _agrees_beyond(inner, window, device)


def _probe(vocabulary: int, device: torch.device, lengths: tuple[int, ...] = (3, 5)) -> PackedBatch:
    ids = torch.arange(sum(lengths), device=device) * 7 % vocabulary
    position = torch.cat([torch.arange(length, device=device) for length in lengths])
    none = ids[:0]
    return PackedBatch(ids, position, none, none, none, lengths=lengths, spans={})


def _can_pack(inner: PreTrainedModel) -> bool:
    """Whether our attention can take the place of the model's; without packing it is the same function."""
    config = inner.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    usual = layers <= {"full_attention", "sliding_attention"} and not getattr(config, "attention_chunk_size", None)
    asked_for = config._attn_implementation == "eager" and inner._supports_sdpa
    return usual and config._attn_implementation in REPLACED and not asked_for


def _packing_agrees(inner: PreTrainedModel, probe: PackedBatch, alone: Tensor) -> bool:
    before = inner.config._attn_implementation
    inner.set_attn_implementation(attention.NAME)
    try:
        if _close(_packed_forward(inner, probe)[0], alone):
            return True
    except (TypeError, ValueError):
        pass  # the model takes no further arguments, or asks of attention what ours does not do
    inner.set_attn_implementation(before)
    return False


def _close(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two results are the same up to rounding; numbers that overflow must do so in both."""
    ours, theirs = ours.nan_to_num(), theirs.nan_to_num()
    tolerance = 5e-2 if theirs.dtype in (torch.bfloat16, torch.float16) else 1e-3
    return bool((ours - theirs).float().norm() <= tolerance * theirs.float().norm())
