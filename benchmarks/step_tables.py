"""Results of the step as text and as a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from benchmarks import plots, tables
from benchmarks.contenders import OURS
from benchmarks.peers import version
from benchmarks.step_cases import StepCase
from benchmarks.step_measure import StepMeasurement, StepResult

COLUMNS = {  # name to width
    "objective": 9,
    "model": 24,
    "data": 10,
    "implementation": 18,
    "s [p20 p80]": 24,
    "s / ours": 8,
    "tokens": 6,
    "tokens/s": 8,
    "useful/s": 8,
    "MB over": 8,
    "MB / ours": 9,
    "MB in all": 9,
    "loss": 9,
    "run s": 7,
    "note": 4,
}


def header() -> str:
    """The first two lines of the table."""
    return tables.header(COLUMNS)


def rows(results: Sequence[StepResult]) -> str:
    """The lines of one case."""
    ours = next((r.measurement for r in results if r.measurement.implementation == OURS), StepMeasurement(OURS))
    return "\n".join(tables.row(_cells(result, ours), COLUMNS) for result in results)


def _cells(result: StepResult, ours: StepMeasurement) -> list[str]:
    case, m = result.case, result.measurement
    size = f"{case.tokens} tokens" if case.tokens else f"{case.rows} {case.data}"
    first = [case.objective, _model(case), size, m.implementation]
    if m.median_seconds is None:
        return [*first, *[""] * 10, m.why_not or ""]
    rates = [f"{n / m.median_seconds:.0f}" for n in (m.tokens, m.useful)]
    return [
        *first,
        f"{m.median_seconds:.3f} [{m.p20_seconds:.3f} {m.p80_seconds:.3f}]",
        _ratio(m.median_seconds, ours.median_seconds),
        str(m.tokens),
        *rates,
        f"{m.over_bytes / 1e6:.0f}",
        _ratio(m.over_bytes, ours.over_bytes),
        f"{m.peak_bytes / 1e6:.0f}",
        f"{m.loss:.5g}",
        "" if m.run_seconds is None else f"{m.run_seconds:.2f}",
        "",
    ]


def _model(case: StepCase) -> str:
    return " ".join([case.model, case.tuning, *(["checkpointing"] if case.checkpointing else [])])


def _ratio(number: float, ours: float | None) -> str:
    return f"{number / ours:.2f}" if ours else ""


def environment(device: str) -> dict[str, str]:
    """The hardware and the versions of everything in the table."""
    packages = ("transformers", "lightning", "peft")
    return {**tables.environment(device), **{name: version(name) or "not installed" for name in packages}}


def read(record: Mapping) -> StepResult:
    """A row from its JSON line."""
    return StepResult(StepCase(**record["case"]), StepMeasurement(**record["measurement"]))


def drawing(results: Sequence[StepResult]) -> Markup | None:
    """Useful tokens a second over memory, a point a row; None where there is no row with numbers."""
    points: dict[str, list[tuple[float, float]]] = {}
    for m in (r.measurement for r in results if r.measurement.median_seconds is not None):
        points.setdefault(m.implementation, []).append((m.over_bytes / 1e6, m.useful / m.median_seconds))
    if not points:
        return None
    return plots.log_plot(
        points,
        (),
        x_label="MB over the model",
        y_label="useful tokens a second",
        title="Useful tokens a second of each implementation against its memory over the model",
        joined=False,
        names=tuple(points),
    )
