"""The step's targets, and whether measurements meet them. Nothing here measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.contenders import OURS, name_of
from benchmarks.step_cases import ROLES, StepCase
from benchmarks.step_measure import StepMeasurement, StepResult
from benchmarks.tables import by_case
from benchmarks.targets import Outcome, at_least, at_most

TO_500, TO_LONGEST = name_of("plain", 500), name_of("plain", None)
CARD = 24e9  # bytes


@dataclass(frozen=True)
class StepGroup:
    """The measurements of one case by implementation, those that have numbers."""

    case: StepCase
    by_name: dict[str, StepMeasurement]

    @property
    def ours(self) -> StepMeasurement:
        """Our row."""
        return self.by_name[OURS]

    def slower(self, name: str) -> float | None:
        """How many times our time another implementation takes; useful tokens a second have the same ratio."""
        other = self.by_name.get(name)
        return other and other.median_seconds / self.ours.median_seconds

    def memory(self, *names: str) -> float | None:
        """Our memory over the model, over the least of others'."""
        others = [self.by_name[name].over_bytes for name in names if name in self.by_name]
        return self.ours.over_bytes / min(others) if others else None


def groups(results: Sequence[StepResult]) -> list[StepGroup]:
    """The cases of TOFU rows in which we have numbers."""
    found = []
    for case, some in by_case(results).items():
        named = {r.measurement.implementation: r.measurement for r in some if r.measurement.median_seconds is not None}
        if OURS in named and case.data == "tofu":
            found.append(StepGroup(case, named))
    return found


def _slower(name: str) -> Callable[[StepGroup], float | None]:
    return lambda group: group.slower(name)


def cpu_targets(results: Sequence[StepResult]) -> list[Outcome]:
    """4 TOFU rows a role on the issue's shape, full float32 training, against both paddings."""
    wanted = ("issue", "full", 4, 0, "float32", "cpu")
    some = [g for g in groups(results) if _key(g.case) == wanted and not g.case.checkpointing]
    outcomes = []
    for objective in ROLES:
        here = [g for g in some if g.case.objective == objective]
        longest = 1.7 if objective == "NPO+KL" else 2.0
        for name, limit in ((TO_500, 12.0), (TO_LONGEST, longest)):
            outcomes.append(at_least(f"{objective}: {name} takes >= {limit:g} x our time", limit, _slower(name), here))
        target = f"{objective}: memory over the model <= 1/5 of {TO_500}'s"
        outcomes.append(at_most(target, 1 / 5, lambda g: g.memory(TO_500), here))
    return outcomes


def _key(case: StepCase) -> tuple:
    return case.model, case.tuning, case.rows, case.tokens, case.dtype, case.device


def gpu_targets(results: Sequence[StepResult]) -> list[Outcome]:
    """An 8 B shape on one card, and 32 TOFU rows a role on a 1 B shape, each at its worst."""
    every = [g for g in groups(results) if g.case.device == "cuda"]
    large = [g for g in every if g.case.model == "llama-3.1-8b" and g.case.tuning == "lora" and g.case.checkpointing]
    large = [g for g in large if g.case.objective == "NPO+KL" and g.ours.useful >= 2048]
    target = "NPO+KL, 8 B with LoRA and checkpointing, 2048 packed tokens: peak GB <= 24"
    outcomes = [at_most(target, CARD / 1e9, lambda g: g.ours.peak_bytes / 1e9, large)]
    small = [g for g in every if g.case.model == "llama-3.2-1b" and g.case.rows == 32 and not g.case.tokens]
    for objective in ("ME+GD", "NPO+KL", "IDK+AP"):
        here = [g for g in small if g.case.objective == objective]
        for name, limit in ((TO_500, 5.0), (TO_LONGEST, 2.0)):
            target = f"{objective}, 1 B: >= {limit:g} x the useful tokens a second of {name}"
            outcomes.append(at_least(target, limit, _slower(name), here))
        target = f"{objective}, 1 B: memory over the model <= 1/2 of the plain formulation's, either padding"
        outcomes.append(at_most(target, 1 / 2, lambda g: g.memory(TO_500, TO_LONGEST), here))
    return outcomes
