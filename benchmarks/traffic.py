"""What a plan's step moves to each GPU: bytes from other GPUs, by ring algorithms, and from the host.

Of P bytes shared by n GPUs an all-gather or a reduce-scatter brings each (n - 1) / n P, an all-reduce twice that.

Shapes: those of `plan.py`.
"""

from __future__ import annotations

from benchmarks.plan import FLOAT, Part, Plan, over, units

NUMBERS = 13  # float32 numbers a token that ranks of a split head exchange, at most, with a reference


def traffic(plan: Plan) -> dict[str, Part]:
    """Bytes that a GPU receives in one step, by kind."""
    return {**_offload(plan), **_data_parallel(plan), **_tensor_parallel(plan)}


def gathered_bytes(plan: Plan) -> float:
    """All weights of a tensor-parallel rank, as they are gathered once."""
    sizes = units(plan)
    return plan.model.layers * sizes["layer"] + sum(size for name, size in sizes.items() if name != "layer")


def _offload(plan: Plan) -> dict[str, Part]:
    """A GPU's own part of the weights, from the host each time that they are gathered."""
    if not plan.cpu_offload:
        return {}
    times = 2 + (plan.reference in ("adapter", "copy"))
    own = gathered_bytes(plan) / plan.data_parallel
    return {
        "from the host": Part(times * own, f"{times} x {gathered_bytes(plan) / 1e9:.2f} GB{over(plan.data_parallel)}")
    }


def _data_parallel(plan: Plan) -> dict[str, Part]:
    d = plan.data_parallel
    if d == 1:
        return {}
    part, weights = (d - 1) / d, gathered_bytes(plan)
    parts = {
        "all-gather, forward": Part(part * weights, f"{d - 1}/{d} x {weights / 1e9:.2f} GB"),
        "all-gather, backward": Part(part * weights, f"{d - 1}/{d} x {weights / 1e9:.2f} GB"),
    }
    if plan.reference in ("adapter", "copy"):
        parts["all-gather, reference"] = Part(part * weights, f"{d - 1}/{d} x {weights / 1e9:.2f} GB")
    trained = plan.adapters * FLOAT if plan.lora else weights
    parts["reduce-scatter, gradients"] = Part(part * trained, f"{d - 1}/{d} x {trained / 1e9:.2f} GB")
    return parts


def _tensor_parallel(plan: Plan) -> dict[str, Part]:
    t, model = plan.tensor_parallel, plan.model
    if t == 1:
        return {}
    ring = 2 * (t - 1) / t
    stream = plan.tokens * model.hidden * plan.width
    forwards = 1 + (plan.reference in ("adapter", "copy")) + plan.checkpointing
    told = f"x {2 * (t - 1)}/{t} T D x {plan.width} B"
    forward, backward = forwards * 2 * model.layers + 1, 2 * model.layers
    hidden = plan.labelled * model.hidden * FLOAT
    numbers = plan.labelled * NUMBERS * FLOAT
    return {
        "all-reduce, forward": Part(forward * ring * stream, f"({forwards} x 2 x {model.layers} layers + 1) {told}"),
        "all-reduce, backward": Part(backward * ring * stream, f"2 x {model.layers} layers {told}"),
        "loss: all-gather of sums": Part((t - 1) * numbers, f"{t - 1} x N x {NUMBERS} x 4 B"),
        "loss: all-reduce of d_hidden": Part(ring * hidden, f"{2 * (t - 1)}/{t} N D x 4 B"),
    }
