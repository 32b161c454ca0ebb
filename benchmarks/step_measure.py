"""One case, every implementation: time, memory, loss, and a whole small run."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.contenders import OURS, Contender, Setting, contender, name_of, prepare, trained
from benchmarks.peers import reason
from benchmarks.step_cases import StepCase
from benchmarks.timing import Step, peak_bytes, seconds, times


@dataclass(frozen=True)
class StepMeasurement:
    """What one implementation took.

    Attributes:
        implementation: its name.
        why_not: why there are no numbers, None where there are.
        median_seconds: of a step.
        p20_seconds: 20th percentile.
        p80_seconds: 80th percentile.
        tokens: that a step runs through the model that trains, padding included.
        useful: those that are no padding.
        over_bytes: peak memory of a step over the model and the optimiser's state: gradients, a second model where one
            is held, and all that comes and goes.
        held_bytes: the model's weights and the optimiser's state, the same for all.
        loss: before the first step.
        run_seconds: of the whole run, None where there is none.
        run_steps: its optimiser steps.
    """

    implementation: str
    why_not: str | None = None
    median_seconds: float | None = None
    p20_seconds: float | None = None
    p80_seconds: float | None = None
    tokens: int | None = None
    useful: int | None = None
    over_bytes: int | None = None
    held_bytes: int | None = None
    loss: float | None = None
    run_seconds: float | None = None
    run_steps: int = 0

    @property
    def peak_bytes(self) -> int:
        """Peak memory, the model included."""
        return self.held_bytes + self.over_bytes


@dataclass(frozen=True)
class StepResult:
    """A row of the table."""

    case: StepCase
    measurement: StepMeasurement


def names(kinds: Sequence[str], widths: Sequence[int | None]) -> list[tuple[str, int | None]]:
    """Each implementation with each width that it is padded to; ours once.

    >>> names(("ours", "plain"), (500, None))
    [('ours', None), ('plain', 500), ('plain', None)]
    """
    return [(kind, width) for kind in kinds for width in ((None,) if kind == OURS else widths)]


def measure(
    case: StepCase, kinds: Sequence[str], widths: Sequence[int | None], repeats: int
) -> tuple[list[StepResult], dict[str, Step]]:
    """Measure every implementation of a case; one that cannot run is a row that says why.

    Args:
        case: what to run.
        kinds: of `contenders.KINDS`.
        widths: what rows are padded to; None for the longest.
        repeats: timed steps of each.

    Returns:
        The rows, and the steps that were timed.
    """
    setting = prepare(case)
    ready: dict[str, Contender] = {}
    known: dict[str, StepMeasurement] = {}
    for kind, width in names(kinds, widths):
        name = name_of(kind, width)
        try:
            ready[name] = contender(kind, width, setting)
            with torch.no_grad():  # all of them before any step moves the weights
                known[name] = StepMeasurement(name, loss=ready[name].loss().item())
        except Exception as error:  # whatever an implementation raises is its row
            ready.pop(name, None)
            known[name] = StepMeasurement(name, reason(error))
            _clean(case.device)
    steps: dict[str, Step] = {}
    for name, one in ready.items():
        try:
            known[name] = _with_memory(known[name], one, setting)
            steps[name] = one.step(setting.optimizer)
        except Exception as error:
            known[name] = StepMeasurement(name, reason(error))
            setting.optimizer.zero_grad()
            _clean(case.device)
    for name, taken in times(steps, case.device, repeats).items():
        spans = {"median_seconds": taken.median, "p20_seconds": taken.p20, "p80_seconds": taken.p80}
        known[name] = replace(known[name], **spans)
    setting.optimizer.zero_grad()
    for name in steps if case.run_steps else ():
        known[name] = _with_run(known[name], ready[name], setting)
    return [StepResult(case, measurement) for measurement in known.values()], steps


def _with_memory(known: StepMeasurement, one: Contender, setting: Setting) -> StepMeasurement:
    """Add peak memory, of the second step: the first makes the optimiser's state."""
    step = one.step(setting.optimizer)
    step()
    setting.optimizer.zero_grad()
    over = peak_bytes(step, setting.case.device) + one.reference_bytes
    held = setting.model_bytes + setting.state_bytes
    return replace(known, tokens=one.tokens, useful=one.useful, over_bytes=over, held_bytes=held)


def _with_run(known: StepMeasurement, one: Contender, setting: Setting) -> StepMeasurement:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few workers, and the like
        took = seconds(one.run, setting.case.device)
    for parameter in trained(setting.model):
        parameter.grad = None
    return replace(known, run_seconds=took, run_steps=len(setting.loader))


def _clean(device: str) -> None:
    """Give back what a step that failed left behind."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
