"""One training step and a whole small run, ours against what others write: `python -m benchmarks.step --help`.

One table a run, the same rows and weights for every implementation. `benchmarks/results/step.md` says what the columns
mean.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from benchmarks import step_tables, tables
from benchmarks.contenders import KINDS
from benchmarks.step_cases import PRESETS, ROLES, StepCase
from benchmarks.step_measure import StepResult, measure
from benchmarks.step_targets import cpu_targets, gpu_targets
from benchmarks.timing import trace_steps

DEFAULT_PRESETS = {"cpu": ["issue"], "cuda": ["issue", "vocabulary", "1b", "8b"]}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; what has no default follows from the presets."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step",
        description="Time and memory of a training step against padded rows with dense logits, or with chunked losses.",
    )
    add = parser.add_argument
    told = "; ".join(f"{' '.join(names)} on {device}" for device, names in DEFAULT_PRESETS.items())
    add("--preset", nargs="+", choices=list(PRESETS), metavar="NAME", help=f"{', '.join(PRESETS)} (default: {told})")
    add("--objectives", nargs="+", choices=list(ROLES), metavar="NAME", help=f"of {', '.join(ROLES)} (default: all)")
    add("--implementations", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME", help=", ".join(KINDS))
    widths = "lengths in tokens, or longest: the longest row of a role (default: 500 longest)"
    add("--padded-to", nargs="+", type=width, default=[500, None], metavar="LENGTH", help=widths)
    add("--rows", type=int, help="forget rows of a step, and as many retain rows, in place of the preset's")
    add("--device", choices=["cpu", "cuda"], default="cuda" if cuda else "cpu", help="default: %(default)s")
    add("--repeats", type=int, default=5, help="timed steps of each implementation (default: %(default)s)")
    add("--threads", type=int, help="CPU threads (default: all)")
    add("--minutes", type=float, help="begin no case after so long (default: no limit)")
    kept = "write results.jsonl, table.md and a plot there; cases in it are not run again"
    add("--output", type=Path, metavar="DIR", help=kept)
    add("--profile", action="store_true", help="profile a step of each implementation; traces go to the output")
    add("--check", action="store_true", help="compare with the targets; ends with status 1 where one is missed")
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    arguments.preset = arguments.preset or DEFAULT_PRESETS[arguments.device]
    words = sys.argv[1:] if argv is None else argv
    arguments.command = f"{parser.prog} {shlex.join(words)}".strip()
    return arguments


def width(text: str) -> int | None:
    """What rows are padded to: tokens, or None for the longest row.

    >>> width("500"), width("longest")
    (500, None)
    """
    if text == "longest":
        return None
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"expected a length of at least 2, or longest, got {text}")
    return int(text)


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    for name in ("rows", "repeats", "threads", "minutes"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            parser.error(f"--{name}: expected a positive number, got {value}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected cpu where PyTorch sees no GPU, got cuda")


def cases(arguments: argparse.Namespace) -> list[StepCase]:
    """The cases that the command line asks for, each once."""
    chosen = []
    for name in arguments.preset:
        preset = PRESETS[name]
        if arguments.rows:
            preset = replace(preset, rows=arguments.rows, tokens=0)
        chosen += preset.cases(arguments.device, arguments.objectives)
    return list(dict.fromkeys(chosen))


def run(arguments: argparse.Namespace, earlier: Sequence[StepResult]) -> list[StepResult]:
    """Measure the cases that are not among earlier results, print and keep each as it ends, and return all results."""
    results, output = list(earlier), arguments.output
    done = {result.case for result in earlier}
    todo = [case for case in cases(arguments) if case not in done]
    start = time.monotonic()
    for index, case in enumerate(todo):
        if arguments.minutes and time.monotonic() - start > 60 * arguments.minutes:
            print(f"{len(todo) - index} of {len(todo)} cases not begun: the {arguments.minutes:g} minutes were up.")
            break
        print(f"[{index + 1}/{len(todo)}] {case}", file=sys.stderr, flush=True)
        measured, steps = measure(case, arguments.implementations, arguments.padded_to, arguments.repeats)
        print(step_tables.rows(measured), flush=True)
        if output:
            tables.append(output / "results.jsonl", measured)
        if arguments.profile:
            print(trace_steps(steps, str(output / f"trace-{case.slug}.json.gz") if output else None))
        results += measured
    return results


def write(arguments: argparse.Namespace, results: list[StepResult], machine: dict[str, str], targets: str) -> None:
    """Write table and plot to the output."""
    page = step_tables.page(results, machine, arguments.command, date.today().isoformat(), targets)
    (arguments.output / "table.md").write_text(page)
    drawing = step_tables.drawing(results)
    if drawing is not None:
        (arguments.output / "step.svg").write_text(drawing)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    arguments = parse(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    machine = step_tables.environment(arguments.device)
    try:
        records = tables.open_records(arguments.output, machine) if arguments.output else []
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"\n{step_tables.header()}")
    results = run(arguments, [step_tables.read(record) for record in records])
    outcomes = (gpu_targets if arguments.device == "cuda" else cpu_targets)(results) if arguments.check else []
    targets = "\n".join(f"    {outcome}" for outcome in outcomes)
    if arguments.check:
        print(f"\n{targets}")
    if arguments.output:
        write(arguments, results, machine, targets)
    if any(outcome.met is False for outcome in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
