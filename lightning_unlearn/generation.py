"""Batched generation from prompts of different lengths, used by every protocol.

It does not know templates or metrics: token ids in, token ids out. What a checkpoint's `generation_config` says about
sampling and penalties is overruled, so that numbers of different models are comparable; its stop tokens are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor

from lightning_unlearn.forward import evaluating
from lightning_unlearn.head import causal_lm
from lightning_unlearn.parts import device_of, is_sharded
from lightning_unlearn.processes import gather, world_size


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 200,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    progress: bool = False,
) -> list[list[int]]:
    """Generate a continuation of each prompt and return its new tokens, without the stop token, in the prompts' order.

    Prompts are padded on the left and batched by length, longest first. The model's train/eval mode and the global
    random state are left as they were. Where the model is sharded over processes, all of them must call this, each with
    prompts of its own, or with none; those that share a tensor-parallel group with the same prompts.

    Args:
        model: a transformers causal LM or a PEFT model around one.
        tokenizer: its tokenizer, for the eos and pad ids (the pad id may be the eos id or missing).
        prompts: token ids, at least one each.
        max_new_tokens: most tokens to generate for a prompt.
        batch_size: prompts in a batch.
        temperature: 0 for greedy decoding, else logits are divided by it and tokens drawn from the whole vocabulary.
        seed: of the draws, which depend on it and on the prompt alone: not on what else is in a batch.
        stop_ids: tokens that end an output beside eos (a chat template's end of turn).
        progress: show a progress bar.

    Raises:
        ValueError: for an empty prompt, a model without `generate`, or an option outside its range.
    """
    _check(model, prompts, max_new_tokens, batch_size, temperature)
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))  # stable: ties stay in order
    stops = _stop_ids(model, tokenizer) | set(stop_ids)
    pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, *stops, 0) if i is not None)
    device = device_of(model)
    shared = is_sharded(model) and world_size() > 1
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    idle = max(gather(len(batches))) - len(batches) if shared else 0
    outputs: list[list[int]] = [[] for _ in prompts]
    with evaluating(model), _waiting(model) if shared else nullcontext(), _bar(len(prompts), progress) as bar:
        for rows in [*batches, *[[]] * idle]:  # all make as many batches, and in each as many forwards: they share them
            chosen = [prompts[row] for row in rows]
            ids, mask = left_pad(chosen or [[pad]], pad)
            more = {"logits_processor": [_Draws.of(chosen, temperature, seed, device)]} if temperature > 0 else {}
            made = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=_options(max_new_tokens if rows else 1, sorted(stops), pad),
                **(more | {"synced_gpus": True} if shared else more),
            )
            for row, new in zip(rows, made[:, ids.shape[1] :].tolist(), strict=False):
                outputs[row] = _until_stop(new, stops)
            bar.update(len(rows))
    return outputs


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Lay prompts out with padding on the left: token ids [B, L] and attention mask [B, L], both int64.

    Example:
        >>> left_pad([[5, 6], [7]], 0)
        (tensor([[5, 6],
                [0, 7]]), tensor([[1, 1],
                [0, 1]]))
    """
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def _check(
    model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int, temperature: float
) -> None:
    if not callable(getattr(model, "generate", None)):
        raise ValueError(
            f"model must have a generate method (a transformers or PEFT model), got {type(model).__name__}"
        )
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    empty = [row for row, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ValueError(f"prompts must hold at least one token each, got none in rows {empty[:10]}")


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Collect the tokenizer's eos and whatever else the checkpoint stops at (a chat model's end of turn)."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = configured if isinstance(configured, list | tuple) else [configured]
    return {int(i) for i in (tokenizer.eos_token_id, *more) if i is not None}


def _options(max_new_tokens: int, stops: list[int], pad: int) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,  # see `_Draws`
        temperature=1.0,  # transformers warns of other values
        top_k=50,
        max_new_tokens=max_new_tokens,
        num_beams=1,
        top_p=1.0,
        typical_p=1.0,
        min_length=0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=stops or None,
        pad_token_id=pad,
        use_cache=True,  # whatever training set on the model's own config
        return_dict_in_generate=False,
    )


@dataclass(frozen=True)
class _Draws:
    """Adds Gumbel noise to logits, of which the largest is then a draw from their softmax: each row has its own."""

    temperature: float
    generators: list[torch.Generator]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], temperature: float, seed: int, device: torch.device) -> _Draws:
        marks = [blake2b(repr([seed, *map(int, prompt)]).encode(), digest_size=7).digest() for prompt in prompts]
        return cls(temperature, [torch.Generator(device).manual_seed(int.from_bytes(mark, "big")) for mark in marks])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.generators:  # nobody asked
            return scores
        noise = [torch.empty_like(scores[0]).exponential_(generator=generator) for generator in self.generators]
        return scores / self.temperature - torch.stack(noise).log()


@contextmanager
def _waiting(model: nn.Module) -> Iterator[None]:
    """Within it logits are waited for that a cut head gathers, also those that a process drops which has finished."""
    hook = causal_lm(model).get_output_embeddings().register_forward_hook(_wait)
    try:
        yield
    finally:
        hook.remove()


def _wait(head: nn.Module, inputs: tuple, logits: Tensor) -> Tensor:
    return logits.wait() if isinstance(logits, AsyncCollectiveTensor) else logits


def _until_stop(tokens: list[int], stops: set[int]) -> list[int]:
    return tokens[: next((i for i, token in enumerate(tokens) if token in stops), len(tokens))]


def _bar(total: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="generate", unit="prompt", disable=not shown)
