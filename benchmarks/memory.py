"""Predicted peak memory and traffic of a training step, from the config alone: `python -m benchmarks.memory --help`.

`benchmarks/SCALING.md` plans with it. `--measure` runs the step that it predicts, on one device, and prints both.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch

from benchmarks.architecture import architecture, read_config
from benchmarks.moments import moments, peak, total
from benchmarks.plan import BYTES, MIB, REFERENCES, Part, Plan, gradients, resting
from benchmarks.shapes import SHAPES
from benchmarks.traffic import traffic

LARGEST = 400_000_000  # parameters that a CPU is asked to train


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description="Predicted peak memory and traffic of a training step, from a model's config alone.",
    )
    add = parser.add_argument
    add("--model", help=f"{', '.join(SHAPES)}, a folder or a checkpoint (default: llama-3.1-8b; issue to measure)")
    add("--gpus", type=int, default=1, help="default: %(default)s")
    add("--data-parallel", type=int, help="GPUs that share weights, FSDP2 (default: all that tensor parallel leaves)")
    add("--tensor-parallel", type=int, default=1, help="GPUs that split each layer (default: %(default)s)")
    tuning = parser.add_mutually_exclusive_group()
    tuning.add_argument("--lora", type=int, nargs="?", const=8, default=0, metavar="RANK", help="train adapters")
    tuning.add_argument("--full", action="store_true", help="train all weights (the default)")
    add("--dtype", choices=list(BYTES), help="of the weights (default: bfloat16; float32 to measure on a CPU)")
    add("--states", choices=list(BYTES), help="of AdamW's states (default: as what trains; adapters: float32)")
    add(
        "--tokens",
        type=int,
        default=2048,
        help="packed tokens of a GPU's step, the same for those that split layers (default: %(default)s)",
    )
    add("--labelled", type=int, help="those with a label (default: all)")
    add("--reference", choices=REFERENCES, help="default: adapter with --lora, else copy")
    add("--checkpointing", action="store_true", help="keep the inputs of layers alone")
    add("--cpu-offload", action="store_true", help="weights, gradients and states rest on the host")
    add("--workspace", type=int, metavar="MIB", help="cap of the head's kernels (default: theirs)")
    add("--budget", type=float, metavar="GB", help="memory of a GPU; ends with status 1 where it is not enough")
    add("--measure", action="store_true", help="run the step on one device and print what it took beside it")
    add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu", help="to measure")
    arguments = parser.parse_args(argv)
    for name in ("gpus", "data_parallel", "tensor_parallel", "tokens", "labelled", "workspace", "budget"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')}: expected a positive number, got {value}")
    if arguments.lora < 0:
        parser.error(f"--lora: expected a positive rank, got {arguments.lora}")
    try:
        arguments.plan = make_plan(arguments)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The plan of a command line.

    Raises:
        ValueError: for numbers that do not go together.
    """
    t, on_cpu = arguments.tensor_parallel, arguments.measure and arguments.device == "cpu"
    d = arguments.data_parallel or max(1, arguments.gpus // t)
    if d * t != arguments.gpus:
        raise ValueError(f"--gpus: expected data parallel x tensor parallel = {d} x {t}, got {arguments.gpus}")
    arguments.model = arguments.model or ("issue" if arguments.measure else "llama-3.1-8b")
    dtype = arguments.dtype or ("float32" if on_cpu else "bfloat16")
    plan = Plan(
        architecture(read_config(arguments.model)),
        data_parallel=d,
        tensor_parallel=t,
        lora=arguments.lora,
        dtype=dtype,
        states=arguments.states or ("float32" if arguments.lora else dtype),
        tokens=arguments.tokens,
        labelled=arguments.labelled or arguments.tokens,
        reference=arguments.reference or ("adapter" if arguments.lora else "copy"),
        checkpointing=arguments.checkpointing,
        cpu_offload=arguments.cpu_offload,
        workspace=arguments.workspace and arguments.workspace * MIB,
        device=arguments.device if arguments.measure else "cuda",
    )
    if arguments.measure:
        _check_measurable(plan)
    return plan


def _check_measurable(plan: Plan) -> None:
    if plan.data_parallel * plan.tensor_parallel > 1 or plan.cpu_offload or plan.reference == "cache":
        raise ValueError("--measure: expected one GPU without --cpu-offload and --reference cache")
    if plan.device == "cpu" and plan.model.parameters > LARGEST:
        raise ValueError(f"--measure: expected at most {LARGEST:,} parameters on a CPU, got {plan.model.parameters:,}")
    if BYTES[plan.states] != (4 if plan.lora else plan.width):
        raise ValueError(f"--measure: expected states in the dtype of what trains, got {plan.states}")


def lines(parts: Mapping[str, Part]) -> list[str]:
    """Parts in columns: name, gigabytes, and how they were found."""
    return [f"  {name:<30} {part.bytes / 1e9:>9.3f} GB   {part.how}" for name, part in parts.items() if part.bytes]


def summary(name: str, plan: Plan) -> str:
    """The plan in words."""
    d, t = plan.data_parallel, plan.tensor_parallel
    words = [
        f"{name}: {plan.model.parameters:,} parameters",
        f"{d * t} GPU{'s' if d * t > 1 else ''} ({d} data x {t} tensor parallel)",
        f"LoRA of rank {plan.lora}: {plan.adapters:,} trained" if plan.lora else "full",
        f"{plan.dtype}, AdamW with {plan.states} states",
        f"{plan.tokens} packed tokens a GPU and step ({plan.tokens * d} in all), {plan.labelled} labelled",
        f"reference: {plan.reference}",
        *(["checkpointing"] if plan.checkpointing else []),
        *(["CPU offload"] if plan.cpu_offload else []),
    ]
    return "; ".join(words)


def report(name: str, plan: Plan, budget: float | None) -> str:
    """Everything that is printed of a plan."""
    model = plan.model
    sizes = f"D {model.hidden}, I {model.intermediate}, {model.layers} layers, HE {model.heads}, KE {model.keys}"
    text = [summary(name, plan), f"T {plan.tokens}, N {plan.labelled}, {sizes}, V {model.vocabulary}"]
    when, most = peak(plan)
    for moment, parts in moments(plan).items():
        mark = "   <- the peak" if moment == when else ""
        text += ["", f"memory of a GPU, {moment}: {total(parts) / 1e9:.2f} GB{mark}", *lines(parts)]
    if plan.cpu_offload:
        host = {**resting(plan), "gradients": gradients(plan)}
        text += ["", f"memory of the host, a GPU's share: {total(host) / 1e9:.2f} GB", *lines(host)]
    sent = traffic(plan)
    text += ["", f"received by a GPU in a step: {total(sent) / 1e9:.2f} GB", *lines(sent)]
    text += ["", f"predicted peak: {most / 1e9:.2f} GB a GPU, {when}; without the CUDA context and fragmentation"]
    if budget:
        text.append(
            f"{'fits' if most <= budget * 1e9 else 'DOES NOT FIT'} in {budget:g} GB: {budget - most / 1e9:.2f} left"
        )
    return "\n".join(text)


def main(argv: list[str] | None = None) -> None:
    """Print the prediction of the command line, and what was measured."""
    arguments = parse(argv)
    plan, budget = arguments.plan, arguments.budget
    print(report(arguments.model, plan, budget))
    if arguments.measure:
        from benchmarks.plan_measure import measured_peak  # arithmetic alone does without Lightning

        found, predicted = measured_peak(read_config(arguments.model), plan), peak(plan)[1]
        print(f"measured on {plan.device}: {found / 1e9:.3f} GB, predicted x {predicted / found:.2f}")
    if budget and peak(plan)[1] > budget * 1e9:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
