"""Time, memory and error of the token statistics and of their peers: `python -m benchmarks.kernels --help`.

One table a run, the same inputs for every implementation. `benchmarks/results/kernels.md` says what the columns mean.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product

from benchmarks import harness, plots, tables
from benchmarks.cases import DTYPES, HEADS, LOGITS, OPERATIONS, PRESETS, Case
from benchmarks.harness import Benchmark
from benchmarks.measure import measure
from benchmarks.peers import IMPLEMENTATIONS
from benchmarks.targets import cpu_targets, gpu_targets

DEFAULT_PRESETS = {"cpu": ["small", "sweep"], "cuda": ["gpu-sweep", "gpu-logits", "gpu"]}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; what has no default follows from the presets."""
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
    harness.add_options(parser, repeats=7, minutes="8 on cuda, no limit on cpu")
    arguments = harness.read_options(parser, argv, positive=("tokens", "hidden", "vocabulary"))
    for share in arguments.ignored or ():
        if not 0 <= share < 1:
            parser.error(f"--ignored: expected shares of at least 0 and less than 1, got {share}")
    arguments.preset = arguments.preset or DEFAULT_PRESETS[arguments.device]
    if arguments.minutes is None and arguments.device == "cuda":
        arguments.minutes = 8.0
    return arguments


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


def benchmark(arguments: argparse.Namespace) -> Benchmark:
    """What the command line asks for."""
    return Benchmark(
        cases=cases(arguments),
        measure=lambda case: measure(case, tuple(arguments.implementations), arguments.repeats),
        targets={"cpu": cpu_targets, "cuda": gpu_targets},
        environment=tables.environment,
        header=tables.header,
        rows=tables.rows,
        read=tables.read,
        drawings=lambda results: {"roofline.svg": plots.roofline(results), "memory.svg": plots.memory(results)},
    )


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    arguments = parse(argv)
    harness.conduct(benchmark(arguments), arguments)


if __name__ == "__main__":
    main()
