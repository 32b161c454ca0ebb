"""The targets, and whether measurements meet them. Nothing here measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.cases import OPERATIONS, Case
from benchmarks.measure import Measurement, Result
from benchmarks.peers import OURS
from benchmarks.tables import by_case

WRONG = 0.1  # a peer whose gradients are off by more does not count as one
CPU_SHAPE = (1024, 512, 128256, "float32")
GPU_SHAPE = (8192, 4096, 128256, "bfloat16")


@dataclass(frozen=True)
class Outcome:
    """A target and the measurement that is farthest from it.

    Attributes:
        target: what is asked for.
        measured: the number, None where nothing measured speaks of it.
        met: whether the number meets the target.
        at: where it was measured.
    """

    target: str
    measured: float | None = None
    met: bool | None = None
    at: str = ""

    def __str__(self) -> str:
        if self.measured is None:
            return f"{'not measured':<13} {self.target}"
        return f"{'met' if self.met else 'MISSED':<13} {self.target}: {self.measured:.3g} ({self.at})"


@dataclass(frozen=True)
class Group:
    """The measurements of one case by implementation, those that have numbers."""

    case: Case
    floor_seconds: float
    formed_once: bool
    by_name: dict[str, Measurement]

    @property
    def ours(self) -> Measurement:
        """Our row."""
        return self.by_name[OURS]

    def slower(self, name: str) -> float | None:
        """How many times our time another implementation takes."""
        other = self.by_name.get(name)
        return other and other.median_seconds / self.ours.median_seconds

    def best_peer(self) -> float | None:
        """How many times our time the fastest of the others takes whose gradients are right."""
        right = [m for name, m in self.by_name.items() if name != OURS and max(m.errors.values(), default=0) < WRONG]
        return min((m.median_seconds for m in right), default=0) / self.ours.median_seconds or None


def groups(results: Sequence[Result]) -> list[Group]:
    """The cases in which we have numbers."""
    found = []
    for case, some in by_case(results).items():
        named = {r.measurement.implementation: r.measurement for r in some if r.measurement.median_seconds is not None}
        floor = some[0].floor
        if OURS in named:
            found.append(Group(case, floor.seconds, floor.logits <= 1 + case.needs_reference, named))
    return found


Number = Callable[[Group], float | None]


def at_most(target: str, limit: float, number: Number, some: Iterable[Group]) -> Outcome:
    """The largest number, which should not exceed the limit."""
    return _judge(target, number, some, max, lambda x: x <= limit)


def at_least(target: str, limit: float, number: Number, some: Iterable[Group]) -> Outcome:
    """The smallest number, which should reach the limit."""
    return _judge(target, number, some, min, lambda x: x >= limit)


def _judge(
    target: str, number: Number, some: Iterable[Group], worst: Callable, meets: Callable[[float], bool]
) -> Outcome:
    numbers = [(value, str(group.case)) for group in some if (value := number(group)) is not None]
    if not numbers:
        return Outcome(target)
    value, at = worst(numbers)
    return Outcome(target, value, meets(value), at)


def _ignored_speedup(all_groups: Sequence[Group]) -> Outcome:
    """Our time with no token ignored over our time with 60 % ignored."""
    seconds = {g.case: g.ours.median_seconds for g in all_groups}

    def faster(group: Group) -> float | None:
        full = seconds.get(replace(group.case, ignored=0.0))
        return full and full / group.ours.median_seconds

    return at_least("60 % ignored: 2 x as fast", 2.0, faster, [g for g in all_groups if g.case.ignored == 0.6])


def _shape(case: Case) -> tuple[int, int, int, str]:
    return case.tokens, case.hidden, case.vocabulary, case.dtype


def _to_floor(group: Group) -> float:
    return group.ours.median_seconds / group.floor_seconds


def _floors(limit: float, some: Sequence[Group]) -> list[Outcome]:
    """Our time over the floor, at its worst for each operation."""
    target = f"time over the floor <= {limit:.2f}"
    return [
        at_most(f"{name}: {target}", limit, _to_floor, [g for g in some if g.case.operation == name])
        for name in OPERATIONS
    ]


def cpu_targets(results: Sequence[Result]) -> list[Outcome]:
    """At the CPU's shape with a trainable head: against the floor and against plain PyTorch, each at its worst."""
    some = [g for g in groups(results) if g.case.source == "hidden" and _shape(g.case) == CPU_SHAPE]
    trainable = [g for g in some if g.case.head == "trainable"]
    full = [g for g in trainable if g.case.ignored == 0]
    outcomes = _floors(1.25, trainable)
    compared = {"uniform_kl": 1.7, "log_prob+entropy": 1.4, "reference_kl": 1.15}
    for operation, limit in compared.items():
        target = f"{operation}: plain PyTorch takes >= {limit} x our time"
        outcomes.append(
            at_least(target, limit, lambda g: g.slower("pytorch"), [g for g in full if g.case.operation == operation])
        )

    def memory(group: Group) -> float | None:
        dense = group.by_name.get("pytorch")
        return dense and group.ours.peak_bytes / max(1, dense.peak_bytes)

    dense = [g for g in full if g.case.operation in compared]
    outcomes.append(at_most("extra memory over plain PyTorch's <= 1/8", 1 / 8, memory, dense))
    return [*outcomes, _ignored_speedup(some)]


def gpu_targets(results: Sequence[Result]) -> list[Outcome]:
    """Against the floor, the best peer, fixed numbers and a copy, each at its worst."""
    every = groups(results)
    some = [g for g in every if g.case.source == "hidden"]
    frozen = [g for g in some if g.case.head == "frozen" and g.case.ignored == 0]
    once = [g for g in frozen if g.formed_once and len(g.case.fields) == 1]
    again = [g for g in frozen if g not in once]
    kl = [g for g in some if g.case.operation == "reference_kl" and g.case.ignored == 0]
    rows = [g for g in every if g.case.source != "hidden" and g.case.vocabulary >= 32000]
    peer = "the best peer takes >= {} x our time"
    outcomes = [
        *_floors(1.10, some),
        at_least(f"frozen head, recompute or several fields: {peer.format(1.3)}", 1.3, Group.best_peer, again),
        at_least(f"frozen head, one field, no recompute: {peer.format(1.8)}", 1.8, Group.best_peer, once),
    ]
    for head, limit in (("trainable", 72), ("frozen", 36)):
        target = f"reference_kl, {head} head, milliseconds <= {limit}"
        big = [g for g in kl if g.case.head == head and _shape(g.case) == GPU_SHAPE]
        outcomes.append(at_most(target, limit, lambda g: g.ours.median_seconds * 1e3, big))
    return [
        *outcomes,
        at_most("extra megabytes <= 600", 600, lambda g: g.ours.peak_bytes / 1e6, some),
        _ignored_speedup(some),
        at_least("logits of V >= 32000: share of a copy's rate >= 0.9", 0.9, lambda g: 1 / _to_floor(g), rows),
    ]
