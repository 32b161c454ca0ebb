"""What the benchmarks that measure case by case share: options, a run that can be continued, a page and targets."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks import tables
from benchmarks.targets import Outcome
from benchmarks.timing import trace_steps


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark has of its own.

    Attributes:
        cases: what is measured, in order.
        measure: the results of a case, and a step of each implementation by name, for the profiler.
        targets: what the results are compared with, by device.
        environment: hardware and versions, of a device.
        header: the first lines of the table.
        rows: the lines of the results of one case.
        read: a result from its JSON line.
        drawings: SVG files by name; None for one that has nothing to show.
    """

    cases: Sequence[Any]
    measure: Callable[[Any], tuple[list[Any], dict[str, Callable[[], object]]]]
    targets: Mapping[str, Callable[[list[Any]], list[Outcome]]]
    environment: Callable[[str], dict[str, str]]
    header: Callable[[], str]
    rows: Callable[[Sequence[Any]], str]
    read: Callable[[Mapping], Any]
    drawings: Callable[[list[Any]], Mapping[str, str | None]]


def add_options(parser: argparse.ArgumentParser, *, repeats: int, minutes: str) -> None:
    """Add what every such benchmark takes.

    Args:
        parser: to be added to.
        repeats: default of `--repeats`.
        minutes: default of `--minutes`, in words.
    """
    add = parser.add_argument
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=["cpu", "cuda"], default=default, help="default: %(default)s")
    add("--repeats", type=int, default=repeats, help="timed steps of each implementation (default: %(default)s)")
    add("--threads", type=int, help="CPU threads (default: all)")
    add("--minutes", type=float, help=f"begin no case after so long (default: {minutes})")
    kept = "write results.jsonl, table.md and plots there; cases in it are not run again"
    add("--output", type=Path, metavar="DIR", help=kept)
    add("--profile", action="store_true", help="profile a step of each implementation; traces go to the output")
    add("--check", action="store_true", help="compare with the targets; ends with status 1 where one is missed")


def read_options(
    parser: argparse.ArgumentParser, argv: list[str] | None, positive: Sequence[str] = ()
) -> argparse.Namespace:
    """Read the command line and check it; the result holds the line itself as `command`.

    Args:
        parser: with the options of `add_options`.
        argv: the words; None for those of the process.
        positive: options of the benchmark that must be positive numbers, one or several.
    """
    arguments = parser.parse_args(argv)
    for name in (*positive, "repeats", "threads", "minutes"):
        value = getattr(arguments, name)
        if any(x <= 0 for x in (value if isinstance(value, list) else [value]) if x is not None):
            parser.error(f"--{name}: expected positive numbers, got {value}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected cpu where PyTorch sees no GPU, got cuda")
    arguments.command = f"{parser.prog} {shlex.join(sys.argv[1:] if argv is None else argv)}".strip()
    return arguments


def conduct(benchmark: Benchmark, arguments: argparse.Namespace) -> None:
    """Measure, print, and write to the output.

    Args:
        benchmark: what is measured.
        arguments: what `read_options` returned.

    Raises:
        SystemExit: the output holds results of another machine; or with status 1, a target was missed.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    machine, output = benchmark.environment(arguments.device), arguments.output
    try:
        records = tables.open_records(output, machine) if output else []
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"\n{benchmark.header()}")
    results = _measure(benchmark, arguments, [benchmark.read(record) for record in records])
    outcomes = benchmark.targets[arguments.device](results) if arguments.check else []
    targets = "\n".join(f"    {outcome}" for outcome in outcomes)
    if arguments.check:
        print(f"\n{targets}")
    if output:
        table = [benchmark.header(), *map(benchmark.rows, tables.by_case(results).values())]
        page = tables.page(table, machine, arguments.command, date.today().isoformat(), targets)
        for name, content in {"table.md": page, **benchmark.drawings(results)}.items():
            if content is not None:
                (output / name).write_text(content)
    if any(outcome.met is False for outcome in outcomes):
        raise SystemExit(1)


def _measure(benchmark: Benchmark, arguments: argparse.Namespace, earlier: list[Any]) -> list[Any]:
    """Measure the cases that are not among earlier results, print and keep each as it ends, and return all results."""
    results, output = list(earlier), arguments.output
    done = {result.case for result in earlier}
    waiting = [case for case in benchmark.cases if case not in done]
    start = time.monotonic()
    for index, case in enumerate(waiting):
        if arguments.minutes and time.monotonic() - start > 60 * arguments.minutes:
            print(
                f"{len(waiting) - index} of {len(waiting)} cases not begun: the {arguments.minutes:g} minutes were up."
            )
            break
        print(f"[{index + 1}/{len(waiting)}] {case}", file=sys.stderr, flush=True)
        measured, steps = benchmark.measure(case)
        print(benchmark.rows(measured), flush=True)
        if output:
            tables.append(output / "results.jsonl", measured)
        if arguments.profile:
            print(trace_steps(steps, str(output / f"trace-{case.slug}.json.gz") if output else None))
        results += measured
    return results
