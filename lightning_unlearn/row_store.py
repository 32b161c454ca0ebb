"""Values of labelled tokens on disk, found by the content of their row: memory-mapped, and never changed once written.

A store is a folder of parts. Whoever writes makes a part of its own, `<name>.values` (one value a token, end to end)
and `<name>.index` (which row is where), so that several processes may write at once and a killed one leaves behind what
it had finished: an index line is written after its values are on disk, and a line that was cut off counts for nothing.
A store does not know what the values mean, nor how they are computed.

Shapes: m labelled tokens of a row, "..." what is stored of a token.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import IO, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_unlearn.data.packing import PackedBatch


class Row(NamedTuple):
    """What a model reads of a row, and where it is asked for what.

    Attributes:
        ids: int64 [n].
        positions: int64 [m], index into `ids` of the position that predicts each target.
        targets: int64 [m].
        attended: bool [n], false where other tokens do not attend, or None.
    """

    ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    attended: np.ndarray | None

    @property
    def key(self) -> bytes:
        """Hash of the content, 16 bytes: token ids stand for the data and for the tokenizer."""
        sizes = np.array([len(self.ids), len(self.targets), self.attended is not None])
        parts = (sizes, self.ids, self.positions, self.targets)
        content = b"".join(part.astype(np.int64, copy=False).tobytes() for part in parts)
        mask = b"" if self.attended is None else self.attended.tobytes()
        return blake2b(content + mask, digest_size=16).digest()


def rows_of(batch: PackedBatch, role: str) -> Iterator[Row]:
    """Yield the role's rows that have targets, in their order, as views of the batch (copied to the host)."""
    part = batch.select([role])
    ids, index, targets, of = (
        tensor.numpy(force=True) for tensor in (part.input_ids, part.target_index, part.targets, part.target_row)
    )
    attended = None if part.attended is None else part.attended.numpy(force=True)
    counts = np.bincount(of, minlength=len(part)).tolist()
    starts, bounds = (0, *accumulate(part.lengths)), (0, *accumulate(counts))  # rows stand in order, and their targets
    for row in (row for row, count in enumerate(counts) if count):
        inputs, tokens = slice(starts[row], starts[row + 1]), slice(bounds[row], bounds[row + 1])
        mask = None if attended is None or attended[inputs].all() else attended[inputs]
        yield Row(ids[inputs], index[tokens] - starts[row], targets[tokens], mask)


class RowStore:
    """Read the parts of a folder; values stay on disk until they are taken.

    Args:
        folder: where the parts are, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[bytes, Tensor] = {}
        self.reload()

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def reload(self) -> None:
        """Look again at what is on disk; rows whose values are not there are left out, with a warning."""
        self._rows, cut_off = {}, {}
        for index in sorted(self.folder.glob("*.index")):
            try:
                rows, cut_off[index] = _read_part(index)
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                rank_zero_warn(f"reference cache: {index} cannot be read, and is left out ({error!r})")
                continue
            self._rows |= rows
        for index, keys in cut_off.items():
            lost = sum(key not in self._rows for key in keys)  # another part may hold them by now
            if lost:
                rank_zero_warn(f"reference cache: the values of {index} end before {lost} of its rows, which are lost")

    def take(self, key: bytes) -> Tensor:
        """Return the values [m, ...] of a row, mapped from disk: to be copied, not changed."""
        return self._rows[key]

    @contextmanager
    def writer(self) -> Iterator[PartWriter]:
        """Open a new part; what it holds is seen after `reload`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / uuid4().hex  # a name that nobody else takes: several processes may write at once
        with stem.with_suffix(".values").open("xb") as values, stem.with_suffix(".index").open("xb") as index:
            yield PartWriter(values, index)


class PartWriter:
    """Append rows to a part.

    Args:
        values: file of the values.
        index: file of the index, a JSON line for the kind of all values and one for each row.
    """

    def __init__(self, values: IO[bytes], index: IO[bytes]) -> None:
        self._values = values
        self._index = index
        self._tokens = 0

    def append(self, rows: Mapping[bytes, Tensor]) -> None:
        """Write values [m, ...] by key, all of one dtype and width, and then the index."""
        lines = []
        for key, value in rows.items():
            if not self._tokens:
                kind = {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape[1:])}
                lines.append(json.dumps(kind))
            self._values.write(value.contiguous().view(torch.uint8).numpy().data)
            lines.append(json.dumps({"key": key.hex(), "first": self._tokens, "count": len(value)}))
            self._tokens += len(value)
        _to_disk(self._values)
        self._index.write("".join(f"{line}\n" for line in lines).encode())
        _to_disk(self._index)


def _read_part(index: Path) -> tuple[dict[bytes, Tensor], list[bytes]]:
    """The rows of a part by key, and the keys of those that its values end before."""
    lines = index.read_text(encoding="utf-8").split("\n")[:-1]  # a line that was cut off has no end
    if not lines:
        return {}, []
    kind, *entries = map(json.loads, lines)
    dtype, shape = getattr(torch, kind["dtype"]), tuple(kind["shape"])
    values = index.with_suffix(".values")
    width = int(np.prod(shape, dtype=np.int64))
    tokens = (values.stat().st_size if values.exists() else 0) // (width * dtype.itemsize)
    found, lost = {}, []
    mapped = torch.empty(0, *shape, dtype=dtype)
    if tokens:
        mapped = torch.from_file(str(values), shared=False, size=tokens * width, dtype=dtype).view(tokens, *shape)
    for entry in entries:
        key, first, stop = bytes.fromhex(entry["key"]), entry["first"], entry["first"] + entry["count"]
        if stop <= tokens:
            found[key] = mapped[first:stop]
        else:
            lost.append(key)
    return found, lost


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
