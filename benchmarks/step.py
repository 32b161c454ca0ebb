"""One training step and a whole small run, ours against what others write: `python -m benchmarks.step --help`.

One table a run, the same rows and weights for every implementation. `benchmarks/results/step.md` says what the columns
mean.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace

from benchmarks import harness, step_tables
from benchmarks.contenders import KINDS
from benchmarks.harness import Benchmark
from benchmarks.step_cases import PRESETS, ROLES, StepCase
from benchmarks.step_measure import measure
from benchmarks.step_targets import cpu_targets, gpu_targets

DEFAULT_PRESETS = {"cpu": ["issue"], "cuda": ["issue", "vocabulary", "1b", "8b"]}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; what has no default follows from the presets."""
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
    harness.add_options(parser, repeats=5, minutes="no limit")
    arguments = harness.read_options(parser, argv, positive=("rows",))
    arguments.preset = arguments.preset or DEFAULT_PRESETS[arguments.device]
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


def cases(arguments: argparse.Namespace) -> list[StepCase]:
    """The cases that the command line asks for, each once."""
    chosen = []
    for name in arguments.preset:
        preset = PRESETS[name]
        if arguments.rows:
            preset = replace(preset, rows=arguments.rows, tokens=0)
        chosen += preset.cases(arguments.device, arguments.objectives)
    return list(dict.fromkeys(chosen))


def benchmark(arguments: argparse.Namespace) -> Benchmark:
    """What the command line asks for."""
    return Benchmark(
        cases=cases(arguments),
        measure=lambda case: measure(case, arguments.implementations, arguments.padded_to, arguments.repeats),
        targets={"cpu": cpu_targets, "cuda": gpu_targets},
        environment=step_tables.environment,
        header=step_tables.header,
        rows=step_tables.rows,
        read=step_tables.read,
        drawings=lambda results: {"step.svg": step_tables.drawing(results)},
    )


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    arguments = parse(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    harness.conduct(benchmark(arguments), arguments)


if __name__ == "__main__":
    main()
