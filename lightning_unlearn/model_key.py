"""The hash of a model: what its values depend on beside the rows, the same however many processes hold the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from hashlib import blake2b
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_unlearn.head import causal_lm, plain_class
from lightning_unlearn.parts import device_of, is_sharded, whole
from lightning_unlearn.processes import gather, rank, world_size

T = TypeVar("T")
LARGE = 2_000_000_000  # bytes that take seconds to hash
# What of a configuration says where a model came from or how it runs, not what it computes.
NOT_THE_MODEL = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}


def model_key(model: nn.Module, kind: str, *, adapters: bool = True) -> str:
    """Hash what the values depend on beside the row: weights, configuration, precision, and the kind of value.

    Args:
        model: a causal LM, with LoRA or not; for one that is sharded, every process must call this.
        kind: kind of the values.
        adapters: whether LoRA adapters take part; without them the key is that of the model without LoRA.
    """
    inner = causal_lm(model)
    tensors = {n: tensor for n, tensor in inner.state_dict().items() if adapters or "lora_" not in n}
    digests = (_shared_digests if is_sharded(inner) else _digests)(tensors)
    config = inner.config.to_dict() if hasattr(inner, "config") else {}
    device = device_of(inner).type
    about = {
        "kind": kind,
        "class": plain_class(inner).__name__,
        "config": {name: value for name, value in config.items() if name not in NOT_THE_MODEL},
        "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None,
        "adapters": {n: dict(m.scaling) for n, m in inner.named_modules() if adapters and hasattr(m, "lora_A")},
        "weights": {n.replace("base_layer.", ""): digest for n, digest in digests.items()},
    }
    return blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    with ThreadPoolExecutor(8) as pool:  # hashing lets go of the interpreter
        each = pool.map(_digest, tensors.values())
        return dict(zip(tensors, _progress(each, tensors), strict=True))


def _shared_digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The same of weights in parts: each is gathered in its turn, and the processes take turns to hash one."""
    mine: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(1) as pool:  # the others gather the next ones meanwhile
        for i, (name, tensor) in enumerate(_progress(tensors.items(), tensors)):
            gathered = whole(tensor)
            if i % world_size() == rank():
                wait(mine.values())  # no more than one is held
                mine[name] = pool.submit(_digest, gathered)
    of_ranks = gather({name: future.result() for name, future in mine.items()})
    return {name: digest for of_rank in of_ranks for name, digest in of_rank.items()}


def _progress(each: Iterable[T], tensors: Mapping[str, Tensor]) -> Iterable[T]:
    large = sum(tensor.nbytes for tensor in tensors.values()) > LARGE
    return tqdm(each, "hash of the model", len(tensors), disable=None if large and rank() == 0 else True)


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {blake2b(content.data, digest_size=16).hexdigest()}"
