"""Where an epoch is cut into micro-batches: after so many rows, or before too many tokens.

Both cut the same orders, and say which places each rank holds in each micro-batch; neither knows how batches are made.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from math import ceil, inf
from typing import Any

import numpy as np

from lightning_unlearn.data.bins import next_fit, split_fullest
from lightning_unlearn.data.orders import Orders, Places, Plan

DEFAULT_BATCH_SIZE = 8
log = logging.getLogger(__name__)


class Batches(ABC):
    """The micro-batches of every epoch, for every rank.

    Args:
        orders: which row stands where.
        roles: the roles that batches hold.
        world_size: how many processes share the data.
    """

    def __init__(self, orders: Orders, *, roles: Iterable[str], world_size: int) -> None:
        self.orders = orders
        self.roles = tuple(roles)
        self.world_size = world_size

    @abstractmethod
    def __len__(self) -> int:
        """Micro-batches of one rank in an epoch: the same number in every epoch."""

    @abstractmethod
    def places(self, epoch: int, step: int, rank: int) -> Places:
        """Return the places that `rank` holds in micro-batch `step`."""

    @abstractmethod
    def spare(self, epoch: int, step: int, rank: int) -> Places:
        """Return places whose first rows may stand in where `rank` holds none of a role."""

    @property
    @abstractmethod
    def fixed(self) -> dict[str, Any]:
        """What must stay for micro-batches to hold the same rows: name -> value, for a checkpoint."""

    def plan(self, epoch: int, step: int, rank: int) -> Plan:
        """Return the rows of each role that `rank` holds in micro-batch `step`."""
        return self.orders.take(self.places(epoch, step, rank), self.roles)

    def filled_plan(self, epoch: int, step: int, rank: int) -> tuple[Plan, list[str]]:
        """Return the plan with a row standing in for each role that has none, and the names of those roles."""
        plan = self.plan(epoch, step, rank)
        missing = [role for role, rows in plan.items() if not rows]
        if missing:
            spare = self.orders.take(self.spare(epoch, step, rank), missing)
            plan |= {role: rows[:1] for role, rows in spare.items()}
        return plan, missing


class RowBatches(Batches):
    """`batch_size` forget rows a rank and micro-batch, with the retain rows that go with them.

    Args:
        orders: which row stands where.
        batch_size: forget rows a rank and micro-batch.
        options: options of `Batches`.
    """

    def __init__(self, orders: Orders, *, batch_size: int, **options: Any) -> None:
        super().__init__(orders, **options)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return ceil(self.orders.size("forget") / (self.batch_size * self.world_size))

    def places(self, epoch: int, step: int, rank: int) -> Places:
        """Deal the rows of the step to the ranks in turn."""
        per_step, rows = self.batch_size * self.world_size, self.orders.size("forget")
        whole = self.orders.stretch(epoch, step * per_step, min((step + 1) * per_step, rows))
        return {owner: positions[rank :: self.world_size] for owner, positions in whole.items()}

    def spare(self, epoch: int, step: int, rank: int) -> Places:
        """A short last step leaves some ranks nothing of a role; the first rank has it, if any."""
        return self.places(epoch, step, 0)

    @property
    def fixed(self) -> dict[str, Any]:
        """More ranks with fewer rows each hold the same rows together."""
        return {"tokens_per_batch": None, "rows_per_step": self.batch_size * self.world_size}


class TokenBatches(Batches):
    """As many units as fit into `tokens_per_batch` tokens, all roles of a rank's micro-batch together.

    A unit is a forget row with its companions and the retain rows that go with it. Units fill bins in the order of the
    epoch, and bin k goes to rank k % world_size in micro-batch k // world_size: an optimiser step holds the same bins
    however they are split between ranks and accumulation.

    Every epoch has as many bins as the one that needs most, rounded up to whole optimiser steps: Lightning counts the
    micro-batches once, and would drop the last gradients of a shorter epoch. Epochs that need fewer split their fullest
    bins.

    Args:
        orders: which row stands where.
        tokens_per_batch: most tokens of a rank's micro-batch.
        accumulate: returns the number of micro-batches in an optimiser step.
        epochs: returns how many epochs will run if each has so many micro-batches.
        options: options of `Batches`.

    Raises:
        ValueError: if a forget row alone is above the cap; by `len` and `places`, if a unit is, or if training has no
            end.
    """

    def __init__(
        self,
        orders: Orders,
        *,
        tokens_per_batch: int,
        accumulate: Callable[[], int],
        epochs: Callable[[int], float],
        **options: Any,
    ) -> None:
        super().__init__(orders, **options)
        self.tokens_per_batch = tokens_per_batch
        self.accumulate = accumulate
        self.epochs = epochs
        self._count = 0
        self._edges: dict[int, np.ndarray] = {}
        if "forget" in self.roles:
            lengths = orders.lengths("forget")
            self._check(lengths, range(len(lengths)), "alone")

    def __len__(self) -> int:
        if not self._count:
            self._count = self._most()
            if log.isEnabledFor(logging.INFO):
                batches, fill = self._count // self.world_size, 100 * self.fill(0)
                log.info(f"{batches} micro-batches an epoch, {fill:.0f} % of tokens_per_batch filled in the first")
        return self._count // self.world_size

    def places(self, epoch: int, step: int, rank: int) -> Places:
        """Return the places of one bin."""
        edges, at = self.edges(epoch), step * self.world_size + rank
        return self.orders.stretch(epoch, int(edges[at]), int(edges[at + 1]))

    def spare(self, epoch: int, step: int, rank: int) -> Places:
        """Rows stand in for an empty bin alone: beside others they might not fit."""
        own = self.places(epoch, step, rank)
        return self.places(epoch, 0, 0) if not own["forget"] else own

    def edges(self, epoch: int) -> np.ndarray:
        """Return where the bins of the epoch start and end, in units: int64 [bins + 1].

        Raises:
            ValueError: if the epoch needs more bins than there are: it was not among those that `epochs` announced.
        """
        if epoch not in self._edges:
            count, sizes = len(self) * self.world_size, self._sizes(epoch)
            edges = next_fit(sizes, self.tokens_per_batch)
            if len(edges) - 1 > count:
                raise ValueError(
                    f"epochs must announce epoch {epoch}, which needs {len(edges) - 1} micro-batches where those "
                    f"announced have {count}, got {self.epochs(len(self))}"
                )
            self._edges = {epoch: split_fullest(edges, sizes, count)}
        return self._edges[epoch]

    def fill(self, epoch: int) -> float:
        """Return the share of the budget that the epoch's rows take."""
        return float(self._sizes(epoch).sum() / (len(self) * self.world_size * self.tokens_per_batch))

    @property
    def fixed(self) -> dict[str, Any]:
        """Other ranks would hold other bins."""
        return {
            "tokens_per_batch": self.tokens_per_batch,
            "world_size": self.world_size,
            "micro_batches": len(self),
        }

    def _most(self) -> int:
        """Count the bins of the epoch that needs most, in whole optimiser steps."""
        step = self.accumulate() * self.world_size
        count, epoch = step, 0
        while epoch < max(end := self.epochs(count // self.world_size), 1):
            if end == inf:
                raise ValueError(
                    "tokens_per_batch needs to know how many epochs will run: max_epochs or max_steps of the Trainer "
                    "must be set"
                )
            bins = len(next_fit(self._sizes(epoch), self.tokens_per_batch)) - 1
            count = max(count, ceil(bins / step) * step)
            epoch += 1
        return count

    def _sizes(self, epoch: int) -> np.ndarray:
        sizes = self.orders.units(epoch, self.roles)
        self._check(sizes, self.orders.order("forget", epoch), f"with what goes with it in epoch {epoch}")
        return sizes

    def _check(self, sizes: np.ndarray, rows: Any, what: str) -> None:
        largest = int(sizes.argmax())
        if sizes[largest] > self.tokens_per_batch:
            raise ValueError(
                f'tokens_per_batch must be at least {sizes[largest]}: so many tokens rows["forget"][{rows[largest]}] '
                f"holds {what}; got {self.tokens_per_batch}"
            )


def make_batches(
    orders: Orders,
    *,
    batch_size: int | None,
    tokens_per_batch: int | None,
    roles: Iterable[str],
    world_size: int,
    accumulate: Callable[[], int] = lambda: 1,
    epochs: Callable[[int], float] = lambda batches: 1,
) -> Batches:
    """Return batches of so many rows, or of at most so many tokens.

    Raises:
        ValueError: for a number out of range, or both.
    """
    rows = rows_a_batch(batch_size, tokens_per_batch)
    if rows is not None:
        return RowBatches(orders, batch_size=rows, roles=roles, world_size=world_size)
    return TokenBatches(
        orders,
        tokens_per_batch=tokens_per_batch,
        roles=roles,
        world_size=world_size,
        accumulate=accumulate,
        epochs=epochs,
    )


def rows_a_batch(batch_size: int | None, tokens_per_batch: int | None) -> int | None:
    """Return the rows of a micro-batch, 8 where nothing is given, or None where tokens decide.

    Raises:
        ValueError: for a number below 1, or both.
    """
    if batch_size is not None and tokens_per_batch is not None:
        raise ValueError(
            "only one of batch_size and tokens_per_batch may be given, got "
            f"batch_size={batch_size} and tokens_per_batch={tokens_per_batch}"
        )
    for name, value in (("batch_size", batch_size), ("tokens_per_batch", tokens_per_batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return DEFAULT_BATCH_SIZE if batch_size is None and tokens_per_batch is None else batch_size
