"""Batches in the order of the rows, for validation: the same rows at every check, on any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lightning_unlearn.data.batching import make_batches
from lightning_unlearn.data.orders import Orders
from lightning_unlearn.data.packing import PackedBatch, pack
from lightning_unlearn.data.sampling import check_share


class NoRows:
    """One batch that holds nothing: Lightning runs a stage that has a batch, and callbacks do what the stage is for."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[dict]:
        yield {}


class OrderedBatches:
    """Yield each forget row once, in order, with `retain_per_forget` retain rows each and the first choice of
    companions.

    Every rank yields the same number of batches; one that a short last batch leaves nothing repeats the batch's first
    row.

    Args:
        rows: role -> rows, or a function (row, draw) for companions, as `UnlearningLoader` takes them.
        batch_size: forget rows a rank and batch (8 where neither this nor `tokens_per_batch` is given).
        tokens_per_batch: in its place, most tokens of a rank's batch, all roles together.
        roles: the roles that batches hold (default: all).
        retain_per_forget: retain rows for each forget row.
        rank: this process among those that share the data.
        world_size: how many processes share the data.

    Raises:
        ValueError: for a missing or empty role, a number out of range, both sizes, or rows above the budget.
    """

    def __init__(
        self,
        rows: Mapping,
        *,
        batch_size: int | None = None,
        tokens_per_batch: int | None = None,
        roles: Sequence[str] | None = None,
        retain_per_forget: float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.batches = make_batches(
            Orders(rows, retain_per_forget=retain_per_forget, seed=None),
            batch_size=batch_size,
            tokens_per_batch=tokens_per_batch,
            roles=check_share(rows, roles, rank, world_size),
            world_size=world_size,
        )

    def __len__(self) -> int:
        """Batches of one rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[PackedBatch]:
        for step in range(len(self)):
            plan, _ = self.batches.filled_plan(0, step, self.rank)
            yield pack(plan)
