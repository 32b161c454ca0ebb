"""Which rows each optimiser step sees: seeded, rank-aware, resumable.

An epoch is one pass over the forget rows. Retain rows are a stream without replacement that runs on across epochs:
every row is seen once before any is seen twice. Both orders are pure functions of (seed, pass, position), so a step
holds the same rows however many ranks share it, no rank ever holds another's rows, and a resumed run continues exactly
where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil, floor, inf
from typing import Any

import numpy as np

from lightning_unlearn.data.packing import PackedBatch, RoleScale, TokenRow, pack

Companion = Sequence[Sequence[TokenRow]] | Callable[[int, int], TokenRow]
"""Rows that go with each row of another role: all choices of a row, or a function of (row, pass) that returns one."""

Plan = dict[str, list[TokenRow]]


class UnlearningLoader:
    """Yield one `PackedBatch` with every role a micro-batch; an epoch is one pass over forget.

    Args:
        rows: role -> rows. "forget" is required, "retain" is drawn as a stream. A role named "forget_*" or "retain_*"
            (such as "forget_idk") holds companions of each forget or retain row, another one in every pass.
        batch_size: forget rows a rank and micro-batch.
        retain_per_forget: retain rows drawn for each forget row.
        seed: seed of every order; the global random state is never touched.
        rank: this process among those that share the data.
        world_size: how many processes share the data.
        accumulate: returns the number of micro-batches in an optimiser step.
        limit: returns how many micro-batches of an epoch the trainer runs, where that is fewer than all of them.

    Raises:
        ValueError: for a missing or empty role, or a number out of range.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[TokenRow] | Companion],
        *,
        batch_size: int,
        retain_per_forget: float = 1.0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: Callable[[], int] = lambda: 1,
        limit: Callable[[], float] = lambda: inf,
    ) -> None:
        _check(rows, batch_size, retain_per_forget, seed, rank, world_size)
        self.rows: dict[str, Any] = dict(rows)
        self.batch_size = batch_size
        self.retain_per_forget = retain_per_forget
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        self.limit = limit
        self.epoch = 0
        self.step = 0
        self._resume_at = 0
        self._orders: dict[tuple[str, int], np.ndarray] = {}
        self.sampler = self  # Lightning calls `loader.sampler.set_epoch` before each epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass over forget that the next iteration makes."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Micro-batches of one rank in an epoch."""
        return ceil(len(self.rows["forget"]) / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[PackedBatch]:
        start = self._resume_at if self._resume_at < len(self) else 0
        self._resume_at = 0
        window, scales = -1, {}
        for step in range(start, len(self)):
            if step // self.accumulate() != window:
                window = step // self.accumulate()
                scales = self._scales(window)
            self.step = step + 1
            yield self._batch(step, scales)

    def state_dict(self) -> dict[str, int]:
        """Return the position: Lightning saves it in checkpoints."""
        return {"epoch": self.epoch, "step": self.step, "rows_per_step": self.batch_size * self.world_size}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a saved position.

        Raises:
            ValueError: if it lies inside an epoch whose micro-batches held another number of rows.
        """
        saved, rows = state["rows_per_step"], self.batch_size * self.world_size
        inside = state["step"] * saved < len(self.rows["forget"])
        if inside and saved != rows:
            raise ValueError(
                f"batch_size x world_size must stay {saved} to resume inside an epoch, got {rows}; resume from the "
                "end of an epoch to change it"
            )
        self.epoch = state["epoch"]
        self.step = self._resume_at = state["step"] if inside else len(self)

    def plan(self, step: int, rank: int) -> Plan:
        """Return the rows of each role that `rank` holds in micro-batch `step` of the current epoch."""
        forget_rows, per_step = self.rows["forget"], self.batch_size * self.world_size
        first, stop = step * per_step, min((step + 1) * per_step, len(forget_rows))
        order = self._order("forget", self.epoch)[first:stop][rank :: self.world_size]
        plan = self._with_companions("forget", [(int(i), self.epoch) for i in order])
        if "retain" in self.rows:
            seen, ratio = self.epoch * len(forget_rows), self.retain_per_forget
            stream = range(floor((seen + first) * ratio), floor((seen + stop) * ratio))[rank :: self.world_size]
            size = len(self.rows["retain"])
            plan |= self._with_companions("retain", [(self._draw(*divmod(at, size)), at // size) for at in stream])
        return {role: plan[role] for role in self.rows}

    def _with_companions(self, role: str, drawn: list[tuple[int, int]]) -> Plan:
        plan = {role: [self.rows[role][index] for index, _ in drawn]}
        for name, companion in self.rows.items():
            if name.startswith(role + "_"):
                plan[name] = [self._companion(companion, index, turn) for index, turn in drawn]
        return plan

    def _companion(self, companion: Companion, index: int, turn: int) -> TokenRow:
        if callable(companion):
            return companion(index, turn)
        choices = companion[index]
        first = np.random.default_rng((self.seed, index)).integers(len(choices))
        return choices[(int(first) + turn) % len(choices)]

    def _draw(self, turn: int, index: int) -> int:
        return int(self._order("retain", turn)[index])

    def _order(self, role: str, turn: int) -> np.ndarray:
        key = (role, turn)
        if key not in self._orders:
            stream = {"forget": 0, "retain": 1}[role]
            while len(self._orders) >= 4:  # both roles, and the two passes over retain that a step may touch
                self._orders.pop(next(iter(self._orders)))
            self._orders[key] = np.random.default_rng((self.seed, stream, turn)).permutation(len(self.rows[role]))
        return self._orders[key]

    def _batch(self, step: int, scales: dict[str, RoleScale]) -> PackedBatch:
        plan = self.plan(step, self.rank)
        # A short last step leaves some ranks nothing of a role: they take part with a row that weighs nothing.
        for role in [role for role, rows in plan.items() if not rows]:
            plan[role] = self.plan(step, 0)[role][:1]
            scales = {**scales, role: RoleScale(0.0, 0.0, 0.0)}
        return pack(plan, scales=scales)

    def _scales(self, window: int) -> dict[str, RoleScale]:
        """Count each role's tokens and rows in a whole optimiser step, over its micro-batches and all ranks."""
        micro = self.accumulate()
        counts = {role: np.zeros(3) for role in self.rows}
        for step in range(window * micro, int(min((window + 1) * micro, len(self), self.limit()))):
            for rank in range(self.world_size):
                for role, rows in self.plan(step, rank).items():
                    counts[role] += [sum(len(r.targets) for r in rows), len(rows), sum(r.sequence_tokens for r in rows)]
        share = micro * self.world_size
        return {role: RoleScale(*(share / max(float(count), 1.0) for count in three)) for role, three in counts.items()}


def _check(rows: Mapping, batch_size: int, retain_per_forget: float, seed: int, rank: int, world_size: int) -> None:
    if "forget" not in rows or not len(rows["forget"]):
        raise ValueError(f'rows must hold a non-empty "forget" role, got roles {sorted(rows)}')
    if "retain" in rows and not len(rows["retain"]):
        raise ValueError('rows["retain"] must not be empty; leave the role out instead')
    for role, companion in rows.items():
        owner = role.split("_")[0]
        if owner not in ("forget", "retain") or owner not in rows:
            raise ValueError(f'every role must be "forget", "retain" or a companion of one that is there, got "{role}"')
        if role != owner and not callable(companion):
            _check_choices(role, companion, len(rows[owner]))
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if retain_per_forget <= 0:
        raise ValueError(
            f"retain_per_forget must be above 0 (leave the retain role out instead), got {retain_per_forget}"
        )
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size = {world_size}), got {rank}")


def _check_choices(role: str, companion: Sequence[Sequence[TokenRow]], owners: int) -> None:
    if len(companion) != owners:
        raise ValueError(f'rows["{role}"] must hold choices for each of {owners} rows, got {len(companion)}')
    if isinstance(companion[0], TokenRow) or not len(companion[0]):
        got = "a single row" if isinstance(companion[0], TokenRow) else "none"
        raise ValueError(f'rows["{role}"] must hold a non-empty list of choices for each row, got {got}')
