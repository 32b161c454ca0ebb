"""The reference without a second model: what it says of each row is computed once, before training, and kept on disk.

Stored are log-probabilities of the targets where an objective reads nothing else of the reference, and otherwise the
final hidden states that predict them: with the reference's output head they give exact divergences. A folder belongs to
one model (its weights, configuration and precision) and one kind of value; within it a row is found by its content.

Shapes: N labelled tokens of a batch, m of a row, D hidden size, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from tqdm import tqdm

from lightning_unlearn.data.packing import PackedBatch, TokenRow, pack
from lightning_unlearn.head import Head, causal_lm, output_head
from lightning_unlearn.processes import gather as _gather
from lightning_unlearn.processes import rank as _rank
from lightning_unlearn.reference import AdapterOff, initial_model
from lightning_unlearn.row_store import Row, RowStore, rows_of

Kind = Literal["log_prob", "hidden"]
ABOUT = "about.json"
TOKENS = 16_384  # of a forward of the pass, counted as padded
LARGE = 2_000_000_000  # bytes that take seconds to hash
# What of a configuration says where a model came from or how it runs, not what it computes.
NOT_THE_MODEL = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}


class ReferenceCache:
    """What the model says that it is now, before training, of every row that will be asked for.

    Args:
        folder: holds a folder for each model and kind.
        model: the model with its initial weights; with adapters that do not change it yet, it is read without them.
        kind: "log_prob" or "hidden".
    """

    def __init__(self, folder: str | Path, model: nn.Module, kind: Kind) -> None:
        self.kind = kind
        self.reader = initial_model(model)
        self.key = self._key_now(model)
        self.folder = Path(folder) / self.key
        self.store = RowStore(self.folder)
        self._model = model
        self._head = _initial_head(self.reader.head()) if kind == "hidden" else None
        self._initial = True  # whether the weights are known to be the initial ones

    def add(self, rows: Mapping[bytes, Row]) -> None:
        """Compute and store what is not stored yet of these rows; with several processes, of the rows of all.

        Raises:
            ValueError: if rows are missing and the model is no longer the initial one, or differs between processes.
        """
        missing = {key: row for key, row in rows.items() if key not in self.store}
        plans = _gather((self.key, {key: len(row.ids) for key, row in missing.items()}))
        if len({key for key, _ in plans}) > 1:
            raise ValueError(f"reference: every process must hold the same initial model, got {len(plans)} that differ")
        lengths = {key: length for _, plan in plans for key, length in plan.items()}
        if not lengths:
            self._initial = False
            return
        self._check_initial(len(lengths))
        self._announce(len(lengths), sum(lengths.values()))
        shares = [_cut(share, lengths) for share in share_rows([plan for _, plan in plans])]
        self._compute(shares[_rank()], missing, forwards=max(map(len, shares)))
        _gather(None)  # nobody looks before all have written
        self.store.reload()
        self._initial = False

    @torch.no_grad()
    def _compute(self, batches: Sequence[Sequence[bytes]], rows: Mapping[bytes, Row], *, forwards: int) -> None:
        device = next(self._model.parameters()).device
        progress = tqdm(range(forwards), desc="reference", unit="batch", disable=None if _rank() == 0 else True)
        with self.store.writer() as part:
            for i in progress:
                # All processes make as many forwards: with a sharded model they wait for each other in each.
                chosen = [rows[key] for key in batches[i]] if i < len(batches) else [_ANY]
                values = self._values(_packed(chosen).to(device)).cpu()
                if i < len(batches):
                    each = values.split([len(row.targets) for row in chosen])
                    part.append(dict(zip(batches[i], each, strict=True)))

    def _values(self, batch: PackedBatch) -> Tensor:
        hidden = self.reader.hidden_states(batch)
        if self.kind == "hidden":
            return hidden
        log_prob = self.reader.head().statistics(hidden, batch.targets, ("log_prob",)).log_prob
        assert log_prob is not None
        return log_prob

    def _key_now(self, model: nn.Module) -> str:
        return model_key(model, self.kind, adapters=not isinstance(self.reader, AdapterOff))

    def _check_initial(self, missing: int) -> None:
        if not self._initial and self._key_now(self._model) != self.key:
            raise ValueError(
                f'reference="cache": {missing} rows are not in {self.folder}, and the model has been trained since: '
                "make the objective anew from the initial model, or cache these rows before training, with "
                "cache_reference"
            )

    def _announce(self, rows: int, tokens: int) -> None:
        """Say what is about to be computed, and, aloud, what lies there that is of no use."""
        root = self.folder.parent
        if not self.folder.exists():
            others = [_describe(file) for file in sorted(root.glob(f"*/{ABOUT}"))]
            if others:
                rank_zero_warn(
                    f"reference cache {root}: {', '.join(others)} cannot serve {self.kind} values of this "
                    f"{type(causal_lm(self._model)).__name__}, whose weights, configuration, precision or kind are "
                    f"others; a new cache is made beside it, {self.key}"
                )
        rank_zero_info(f"reference cache {self.folder}: {rows} rows ({tokens} tokens) beside {len(self.store)}")
        if _rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            about = {"kind": self.kind, "model": type(causal_lm(self._model)).__name__, "source": _source(self._model)}
            (self.folder / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")

    def attach(self, batch: PackedBatch, roles: Iterable[str]) -> PackedBatch:
        """Return the batch with what the reference says of the roles' labelled tokens, looked up on the host.

        Raises:
            ValueError: for a row that is not in the cache.
        """
        found = {role: self._look_up(batch, role) for role in roles if role not in batch.reference}
        return replace(batch, reference={**batch.reference, **found}) if found else batch

    def values(self, batch: PackedBatch) -> Tensor:
        """Return what the reference says of the batch's labelled tokens: log-probabilities [N] or hidden states [N, D].

        Raises:
            ValueError: for a row that is not in the cache.
        """
        attached = self.attach(batch, batch.roles).reference
        return torch.cat([attached[role] for role in batch.roles]).to(batch.input_ids.device)

    def hidden_states(self, batch: PackedBatch) -> Tensor:
        """See `lightning_unlearn.reference.Reference`; for a cache of hidden states."""
        assert self.kind == "hidden", f"a cache of {self.kind} holds no hidden states"
        return self.values(batch)

    def head(self) -> Head:
        """Return the reference's output head: the live one where it does not train, else its initial weights."""
        if self._head is None:
            return self.reader.head()
        weight = output_head(self._model).weight
        if self._head.weight.device != weight.device:
            bias = None if self._head.bias is None else self._head.bias.to(weight.device)
            self._head = replace(self._head, weight=self._head.weight.to(weight.device), bias=bias)
        return self._head

    def _look_up(self, batch: PackedBatch, role: str) -> Tensor:
        keys = [row.key for row in rows_of(batch, role)]
        missing = sum(key not in self.store for key in keys)
        if missing:
            raise ValueError(
                f'batch["{role}"]: {missing} of {len(keys)} rows are not in the reference cache {self.folder}; a '
                "loader that gives other rows in later epochs needs them cached before training: call "
                "cache_reference with all its batches"
            )
        if keys:
            return torch.cat([self.store.take(key) for key in keys])
        if self.kind == "log_prob":
            return torch.empty(0)
        weight = self.head().weight
        return torch.empty(0, weight.shape[1], dtype=weight.dtype)


def unique_rows(batches: Iterable[PackedBatch], roles: Sequence[str]) -> dict[bytes, Row]:
    """Return the rows of these roles by key, each once."""
    rows: dict[bytes, Row] = {}
    for batch in batches:
        for role in roles:
            for row in rows_of(batch, role):
                rows.setdefault(row.key, row)
    return rows


def share_rows(plans: Sequence[Mapping[bytes, int]]) -> list[list[bytes]]:
    """Give each row to one of the processes that have it, the one with the least to do; longest rows first.

    Args:
        plans: what each process has, key -> length.
    """
    owners: dict[bytes, list[int]] = {}
    for rank, plan in enumerate(plans):
        for key in plan:
            owners.setdefault(key, []).append(rank)
    lengths = {key: length for plan in plans for key, length in plan.items()}
    load, shares = [0] * len(plans), [[] for _ in plans]  # type: ignore[var-annotated]
    for key in sorted(lengths, key=lambda key: (-lengths[key], key)):
        rank = min(owners[key], key=load.__getitem__)
        load[rank] += lengths[key]
        shares[rank].append(key)
    return shares


def model_key(model: nn.Module, kind: Kind, *, adapters: bool = True) -> str:
    """Hash what the values depend on beside the row: weights, configuration, precision, and the kind of value.

    Args:
        model: a causal LM, with LoRA or not.
        kind: kind of the values.
        adapters: whether LoRA adapters take part; without them the key is that of the model without LoRA.
    """
    inner = causal_lm(model)
    tensors = {n: tensor for n, tensor in inner.state_dict().items() if adapters or "lora_" not in n}
    config = inner.config.to_dict() if hasattr(inner, "config") else {}
    device = next(inner.parameters()).device.type
    about = {
        "kind": kind,
        "class": type(inner).__name__,
        "config": {name: value for name, value in config.items() if name not in NOT_THE_MODEL},
        "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None,
        "adapters": {n: dict(m.scaling) for n, m in inner.named_modules() if adapters and hasattr(m, "lora_A")},
        "weights": dict(zip((n.replace("base_layer.", "") for n in tensors), _digests(tensors), strict=True)),
    }
    return blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _digests(tensors: Mapping[str, Tensor]) -> list[str]:
    large = sum(tensor.nbytes for tensor in tensors.values()) > LARGE
    with ThreadPoolExecutor(8) as pool:  # hashing lets go of the interpreter
        each = pool.map(_digest, tensors.values())
        return list(tqdm(each, "hash of the model", len(tensors), disable=None if large and _rank() == 0 else True))


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {blake2b(content.data, digest_size=16).hexdigest()}"


def _initial_head(head: Head) -> Head | None:
    """A copy of a head that trains; None for one that stays as it is."""
    if not head.weight.requires_grad and not (head.bias is not None and head.bias.requires_grad):
        return None
    bias = None if head.bias is None else head.bias.detach().clone()
    return replace(head, weight=head.weight.detach().clone(), bias=bias, layer=None)  # not the live layer's


def _cut(keys: Sequence[bytes], lengths: Mapping[bytes, int]) -> list[list[bytes]]:
    """Cut rows, longest first, into batches of at most TOKENS tokens (one row at least)."""
    batches: list[list[bytes]] = []
    for key in keys:
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > TOKENS:
            batches.append([])
        batches[-1].append(key)
    return batches


def _packed(rows: Sequence[Row]) -> PackedBatch:
    batch = pack({"rows": [TokenRow(row.ids, row.positions, row.targets) for row in rows]})
    if all(row.attended is None for row in rows):
        return batch
    masks = [np.ones(len(row.ids), dtype=bool) if row.attended is None else row.attended for row in rows]
    return replace(batch, attended=torch.from_numpy(np.concatenate(masks)))


_ANY = Row(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), None)


def _source(model: nn.Module) -> str:
    return str(getattr(getattr(causal_lm(model), "config", None), "_name_or_path", ""))


def _describe(file: Path) -> str:
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        source = f" of {about['source']}" if about["source"] else ""
        return f"{file.parent.name} ({about['kind']} values, {about['model']}{source})"
    except (ValueError, KeyError, TypeError, OSError):
        return f"{file.parent.name} (unknown)"
