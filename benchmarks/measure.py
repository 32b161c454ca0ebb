"""One case, every implementation: error against float64, time, memory, and the case's floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from benchmarks.cases import Case, Problem, make, step
from benchmarks.floor import Floor, floor
from benchmarks.peers import Implementation, candidates, pytorch, reason
from benchmarks.timing import Step, peak_bytes, times

ERROR_ELEMENTS = 2**23  # logits of the problem that errors are measured on, which is also computed in float64


@dataclass(frozen=True)
class Measurement:
    """What one implementation took.

    Attributes:
        implementation: its name.
        why_not: why there are no numbers, None where there are.
        median_seconds: of a call: value and gradients.
        p20_seconds: 20th percentile.
        p80_seconds: 80th percentile.
        peak_bytes: peak memory beyond inputs and gradients.
        errors: relative error against float64: of the values (the worst field's), and of each gradient in norm.
        error_tokens: tokens of the problem that the errors were measured on, the case's but for its size.
    """

    implementation: str
    why_not: str | None = None
    median_seconds: float | None = None
    p20_seconds: float | None = None
    p80_seconds: float | None = None
    peak_bytes: int | None = None
    errors: dict[str, float] = field(default_factory=dict)
    error_tokens: int | None = None


@dataclass(frozen=True)
class Result:
    """A row of the table."""

    case: Case
    floor: Floor
    measurement: Measurement


def measure(case: Case, names: tuple[str, ...], repeats: int) -> tuple[list[Result], dict[str, Step]]:
    """Measure every implementation of a case; one that cannot run is a row that says why.

    Args:
        case: what to run.
        names: implementations, of `peers.IMPLEMENTATIONS`.
        repeats: timed calls of each.

    Returns:
        The rows, and the steps that were timed.
    """
    problem = make(case)
    least = floor(problem)
    small = make(replace(case, tokens=error_tokens(case)))
    truth = _outcome(small.double(), pytorch)
    steps: dict[str, Step] = {}
    known: dict[str, Measurement] = {}
    for implementation in candidates(problem, names):
        name = implementation.name
        try:
            known[name], steps[name] = _prepare(implementation, problem, small, truth)
        except Exception as error:  # whatever a peer raises is its row
            known[name] = Measurement(name, reason(error))
            torch.cuda.empty_cache()
    for name, taken in times(steps, case.device, repeats).items():
        seconds = {"median_seconds": taken.median, "p20_seconds": taken.p20, "p80_seconds": taken.p80}
        known[name] = replace(known[name], **seconds)
    return [Result(case, least, measurement) for measurement in known.values()], steps


def error_tokens(case: Case) -> int:
    """Tokens that leave [tokens, V] small enough for float64: a multiple of 8, or all.

    >>> error_tokens(Case("all", "hidden", "frozen", 0.0, 8192, 4096, 128256, "bfloat16", "cuda"))
    64
    """
    most = max(8, ERROR_ELEMENTS // case.vocabulary)
    return case.tokens if case.tokens <= most else most - most % 8


def _prepare(
    implementation: Implementation, problem: Problem, small: Problem, truth: dict[str, Tensor]
) -> tuple[Measurement, Step]:
    """Errors and memory, and a step that is ready to be timed."""
    function = implementation.function(problem)
    if implementation.in_place:
        problem, small = own(problem), own(small)
    errors = relative_errors(_outcome(small, function), truth)
    run = step(problem, function)
    run()  # compiles, tunes and fills caches
    peak = peak_bytes(run, problem.case.device)
    tokens = small.case.tokens
    return Measurement(implementation.name, peak_bytes=peak, errors=errors, error_tokens=tokens), run


def own(problem: Problem) -> Problem:
    """The same problem with logits of its own, where it starts from logits."""
    if problem.case.source == "hidden":
        return problem
    return replace(problem, inputs=tuple(x.detach().clone().requires_grad_() for x in problem.inputs))


def _outcome(problem: Problem, function) -> dict[str, Tensor]:
    """Values and gradients by name."""
    values = torch.stack(function(problem))
    named = {"value": values.detach()}
    if problem.case.source != "row sums":
        names = ("input", "weight")
        gradients = torch.autograd.grad(values.sum(), problem.leaves)
        named |= {f"d_{name}": gradient for name, gradient in zip(names, gradients, strict=False)}
    return named


def relative_errors(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative error of each tensor in norm, and of the values the worst one's.

    >>> x = torch.tensor([3.0, 4.0])
    >>> relative_errors({"value": x, "d_input": x}, {"value": torch.tensor([3.0, 5.0]), "d_input": 2 * x})
    {'value': 0.2, 'd_input': 0.5}
    """
    errors = {}
    for name, true in truth.items():
        gap, true = found[name].double() - true.double(), true.double()
        ratio = (gap.abs() / true.abs()).max() if name == "value" else gap.norm() / true.norm()
        errors[name] = float(ratio)
    return errors
