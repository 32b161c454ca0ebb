"""Time, memory and error of the token statistics and of their peers: `python -m benchmarks.kernels --help`.

One table a run, the same inputs for every implementation. `benchmarks/results/kernels.md` says what the columns mean.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path

import torch

from benchmarks import plots, tables
from benchmarks.cases import DTYPES, HEADS, LOGITS, OPERATIONS, PRESETS, Case
from benchmarks.measure import Result, measure
from benchmarks.peers import IMPLEMENTATIONS
from benchmarks.targets import cpu_targets, gpu_targets
from benchmarks.timing import trace_steps

DEFAULT_PRESETS = {"cpu": ["small", "sweep"], "cuda": ["gpu-sweep", "gpu-logits", "gpu"]}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; what has no default follows from the presets."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels",
        description="Time, memory and error of the token statistics against plain PyTorch and other projects' kernels.",
    )
    add = parser.add_argument
    told = "; ".join(f"{' '.join(names)} on {device}" for device, names in DEFAULT_PRESETS.items())
    add("--preset", nargs="+", choices=list(PRESETS), metavar="NAME", help=f"sets of cases (default: {told})")
    for name, meaning in (("tokens", "N"), ("hidden", "D"), ("vocabulary", "V")):
        add(f"--{name}", type=int, nargs="+", help=f"{meaning}, in place of the preset's")
    add("--dtype", choices=DTYPES, help="in place of the preset's")
    add("--operations", nargs="+", choices=list(OPERATIONS), help="in place of the preset's")
    add("--heads", nargs="+", choices=HEADS, help="in place of the preset's")
    add("--ignored", nargs="+", type=float, metavar="SHARE", help="shares of ignored tokens, in place of the preset's")
    add("--logits", action="store_true", help="also from logits that exist, and the passes over logits on their own")
    add("--implementations", nargs="+", choices=list(IMPLEMENTATIONS), default=list(IMPLEMENTATIONS), metavar="NAME")
    add("--device", choices=["cpu", "cuda"], default="cuda" if cuda else "cpu", help="default: %(default)s")
    add("--repeats", type=int, default=7, help="timed steps of each implementation (default: %(default)s)")
    add("--threads", type=int, help="CPU threads (default: all)")
    add("--minutes", type=float, help="begin no case after so long (default: 8 on cuda, no limit on cpu)")
    kept = "write results.jsonl, table.md and plots there; cases in it are not run again"
    add("--output", type=Path, metavar="DIR", help=kept)
    add("--profile", action="store_true", help="profile a step of each implementation; traces go to the output")
    add("--check", action="store_true", help="compare with the targets; ends with status 1 where one is missed")
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    arguments.preset = arguments.preset or DEFAULT_PRESETS[arguments.device]
    if arguments.minutes is None and arguments.device == "cuda":
        arguments.minutes = 8.0
    words = sys.argv[1:] if argv is None else argv
    arguments.command = f"{parser.prog} {shlex.join(words)}".strip()
    return arguments


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    for name in ("tokens", "hidden", "vocabulary", "repeats", "threads", "minutes"):
        value = getattr(arguments, name)
        if any(x <= 0 for x in (value if isinstance(value, list) else [value]) if x is not None):
            parser.error(f"--{name}: expected positive numbers, got {value}")
    for share in arguments.ignored or ():
        if not 0 <= share < 1:
            parser.error(f"--ignored: expected shares of at least 0 and less than 1, got {share}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected cpu where PyTorch sees no GPU, got cuda")


def cases(arguments: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for, each once."""
    chosen = []
    for name in arguments.preset:
        preset = PRESETS[name]
        shapes = preset.shapes
        if arguments.hidden or arguments.vocabulary:
            widths = arguments.hidden or dict.fromkeys(d for d, _ in shapes)
            shapes = tuple(product(widths, arguments.vocabulary or dict.fromkeys(v for _, v in shapes)))
        changes = {"shapes": shapes, "sources": preset.sources + (LOGITS if arguments.logits else ())}
        for option in ("tokens", "dtype", "operations", "heads", "ignored"):
            changes[option] = getattr(arguments, option) or getattr(preset, option)
        chosen += replace(preset, **changes).cases(arguments.device)
    return list(dict.fromkeys(chosen))


def run(arguments: argparse.Namespace, earlier: list[Result]) -> list[Result]:
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
        measured, steps = measure(case, tuple(arguments.implementations), arguments.repeats)
        print(tables.rows(measured), flush=True)
        if output:
            tables.append(output / "results.jsonl", measured)
        if arguments.profile:
            print(trace_steps(steps, str(output / f"trace-{case.slug}.json.gz") if output else None))
        results += measured
    return results


def write(arguments: argparse.Namespace, results: list[Result], machine: dict[str, str], targets: str) -> None:
    """Write table and plots to the output."""
    files = {"table.md": tables.page(results, machine, arguments.command, date.today().isoformat(), targets)}
    files |= {"roofline.svg": plots.roofline(results), "memory.svg": plots.memory(results)}
    for name, content in files.items():
        if content is not None:
            (arguments.output / name).write_text(content)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    arguments = parse(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    machine = tables.environment(arguments.device)
    try:
        earlier = tables.open_results(arguments.output, machine) if arguments.output else []
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"\n{tables.header()}")
    results = run(arguments, earlier)
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
