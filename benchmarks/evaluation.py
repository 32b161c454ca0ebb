"""Likelihood metrics and membership attacks, ours against the usual way: `python -m benchmarks.evaluation --help`.

Ours is `lightning_unlearn.evaluation.run.evaluate` without generation, tokenisation included; the usual way runs one
padded forward for each metric, on rows that are tokens already. `benchmarks/results/evaluation.md` says what the
columns mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from benchmarks import evaluation_plain, harness, tables
from benchmarks.evaluation_cases import PRESETS, EvaluationCase, Rows, case, models_of, rows_of
from benchmarks.harness import Benchmark
from benchmarks.peers import version
from benchmarks.targets import Outcome, at_least, at_most
from benchmarks.timing import peak_bytes, seconds
from lightning_unlearn.data.set_options import LIKELIHOOD_ONLY
from lightning_unlearn.evaluation import memorization, privacy, tofu
from lightning_unlearn.evaluation.log import Sample
from lightning_unlearn.evaluation.run import evaluate

OURS, USUAL = "ours, all at once", "usual, all"
MEMORY_ROWS = 64
COLUMNS = {"model": 14, "rows": 14, "what": 30, "s": 8, "s / ours": 8, "MB": 8, "MB / ours": 9, "differs by": 10}


@dataclass(frozen=True)
class EvaluationMeasurement:
    """What one metric, or all, took.

    Attributes:
        implementation: its name.
        seconds: of one evaluation of all rows.
        over_bytes: peak memory beyond the models, of the `MEMORY_ROWS` rows with the longest answers.
        difference: the largest between a row's value and ours, as a share of the largest value; None for ours.
    """

    implementation: str
    seconds: float
    over_bytes: int
    difference: float | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """A row of the table."""

    case: EvaluationCase
    measurement: EvaluationMeasurement


def ours(models: tuple[Any, Any], rows: Rows) -> dict[str, Tensor]:
    """Every metric of all rows from one log."""
    sets = {"forget": rows.members, "holdout": rows.others}
    options = dict.fromkeys(sets, LIKELIHOOD_ONLY)
    judges = {"sentence_encoder": None, "entailment": None, "progress": False}
    found = evaluate(
        models[0], rows.encoder, sets, set_options=options, reference=models[1], gradient_norms=True, **judges
    )
    both = [*found["forget"], *found["holdout"]]
    values: dict[str, Callable[[Sequence[Sample]], Tensor]] = {
        "probability": lambda some: tofu.probabilities(some, "forget"),
        "truth_ratio": tofu.truth_ratios,
        "paraphrase_probability": memorization.paraphrase_probabilities,
        "exact_memorization": memorization.exact_memorizations,
        "extraction_strength": memorization.extraction_strengths,
        "predictive_entropy": memorization.predictive_entropies,
    }
    attacks = {name: score(both) for name, (_, score) in privacy.ATTACKS.items()}
    return {**{name: compute(found["forget"]) for name, compute in values.items()}, **attacks}


def measure(case: EvaluationCase) -> tuple[list[EvaluationResult], dict[str, Callable[[], object]]]:
    """Measure our way once and the usual way metric by metric."""
    rows, models = rows_of(case), models_of(case)
    longest = rows.longest(MEMORY_ROWS)
    ours(models, rows.longest(2))  # so that nothing is done for the first time below
    values: dict[str, Tensor] = {}
    took = seconds(lambda: values.update(ours(models, rows)), case.device)
    memory = peak_bytes(lambda: tuple(ours(models, longest).values()), case.device)
    found = [EvaluationMeasurement(OURS, took, memory)]
    steps = {OURS: lambda: ours(models, longest)}
    few = evaluation_plain.metrics(*models, longest)
    for name, compute in evaluation_plain.metrics(*models, rows).items():
        theirs: list[Tensor] = []
        took = seconds(lambda kept=theirs, run=compute: kept.append(run()), case.device)
        memory = peak_bytes(lambda run=few[name]: (run(),), case.device)
        difference = ((theirs[0] - values[name]).abs().max() / theirs[0].abs().max().clamp(min=1e-9)).item()
        found.append(EvaluationMeasurement(f"usual, {name}", took, memory, difference))
        steps[f"usual, {name}"] = few[name]
    usual = found[1:]
    total = sum(one.seconds for one in usual)
    found.append(EvaluationMeasurement(USUAL, total, max(one.over_bytes for one in usual), _worst(usual)))
    return [EvaluationResult(case, one) for one in found], steps


def _worst(measurements: Sequence[EvaluationMeasurement]) -> float:
    return max(one.difference or 0.0 for one in measurements)


def header() -> str:
    """The first two lines of the table."""
    return tables.header(COLUMNS)


def rows(results: Sequence[EvaluationResult]) -> str:
    """The lines of one case."""
    base = next(r.measurement for r in results if r.measurement.implementation == OURS)
    return "\n".join(tables.row(_cells(result, base), COLUMNS) for result in results)


def _cells(result: EvaluationResult, base: EvaluationMeasurement) -> list[str]:
    m = result.measurement
    return [
        result.case.model,
        f"{result.case.rows} {result.case.data}",
        m.implementation,
        f"{m.seconds:.2f}",
        f"{m.seconds / base.seconds:.2f}",
        f"{m.over_bytes / 1e6:.0f}",
        f"{m.over_bytes / base.over_bytes:.2f}",
        "" if m.difference is None else f"{m.difference:.1e}",
    ]


@dataclass(frozen=True)
class Pair:
    """Both ways of a case."""

    case: EvaluationCase
    ours: EvaluationMeasurement
    usual: EvaluationMeasurement


def targets(results: Sequence[EvaluationResult]) -> list[Outcome]:
    """400 TOFU rows: a quarter of the time and of the memory, and the same values."""
    wanted = [r for r in results if (r.case.model, r.case.rows, r.case.data) == ("issue", 400, "tofu")]
    named = {result.measurement.implementation: result.measurement for result in wanted}
    pairs = [Pair(wanted[0].case, named[OURS], named[USUAL])] if {OURS, USUAL} <= named.keys() else []
    return [
        at_least("the usual way takes >= 4 x our time", 4.0, lambda p: p.usual.seconds / p.ours.seconds, pairs),
        at_most("our memory over the models <= 1/4", 1 / 4, lambda p: p.ours.over_bytes / p.usual.over_bytes, pairs),
        at_most("values differ by <= 1e-4 of the largest", 1e-4, lambda p: p.usual.difference, pairs),
    ]


def environment(device: str) -> dict[str, str]:
    """The hardware and the versions of what is in the table."""
    return {**tables.environment(device), "transformers": version("transformers") or "not installed"}


def read(record: Mapping) -> EvaluationResult:
    """A row from its JSON line."""
    return EvaluationResult(EvaluationCase(**record["case"]), EvaluationMeasurement(**record["measurement"]))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation",
        description="Time and memory of likelihood metrics and membership attacks against one padded forward for each.",
    )
    known = ", ".join(PRESETS)
    parser.add_argument("--preset", nargs="+", choices=list(PRESETS), default=["issue"], metavar="NAME", help=known)
    parser.add_argument("--rows", type=int, help="rows to forget in place of the preset's")
    harness.add_options(parser, repeats=1, minutes="no limit")
    return harness.read_options(parser, argv, positive=("rows",))


def benchmark(arguments: argparse.Namespace) -> Benchmark:
    """What the command line asks for."""
    cases = [case(name, arguments.device) for name in arguments.preset]
    if arguments.rows:
        cases = [replace(one, rows=arguments.rows) for one in cases]
    both = {"cpu": targets, "cuda": targets}
    return Benchmark(cases, measure, both, environment, header, rows, read, drawings=lambda results: {})


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    arguments = parse(argv)
    harness.conduct(benchmark(arguments), arguments)


if __name__ == "__main__":
    main()
