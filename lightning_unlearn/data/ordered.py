"""Batches in the order of the rows, for validation: the same rows at every check, on any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil, floor

from lightning_unlearn.data.packing import PackedBatch, pack


class OrderedBatches:
    """Yield each forget row once, in order, with `retain_per_forget` retain rows each and the first choice of
    companions.

    Every rank yields the same number of batches; one that a short last batch leaves nothing repeats the batch's first
    row.

    Args:
        rows: role -> rows, or a function (row, draw) for companions, as `UnlearningLoader` takes them.
        batch_size: forget rows a rank and batch.
        retain_per_forget: retain rows for each forget row.
        rank: this process among those that share the data.
        world_size: how many processes share the data.
    """

    def __init__(
        self, rows: Mapping, *, batch_size: int, retain_per_forget: float = 1.0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.retain_per_forget = retain_per_forget
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Batches of one rank."""
        return ceil(len(self.rows["forget"]) / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[PackedBatch]:
        for step in range(len(self)):
            yield pack({role: self._take(role, step) for role in self.rows})

    def _take(self, role: str, step: int) -> list:
        owner = role.split("_")[0]
        per_step, ratio = self.batch_size * self.world_size, 1.0 if owner == "forget" else self.retain_per_forget
        size, stop = len(self.rows[owner]), min((step + 1) * per_step, len(self.rows["forget"]))
        of_step = range(floor(step * per_step * ratio), floor(stop * ratio))
        mine = of_step[self.rank :: self.world_size] or of_step[:1]
        source = self.rows[role]
        if callable(source):
            return [source(i % size, 0) for i in mine]
        return [source[i % size] if role == owner else source[i % size][0] for i in mine]
