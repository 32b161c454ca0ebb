"""A plan of training, and what of it rests in each GPU's memory between steps or is gathered for a layer.

Shapes: T packed tokens of a GPU's step, N labelled ones, and those of `architecture.py`; b bytes of a weight, d GPUs
that share weights (FSDP2), t GPUs that split each layer (tensor parallel).
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.architecture import Architecture

REFERENCES = ("none", "adapter", "copy", "cache")
MIB = 2**20
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT = 4  # bytes of what is float32 whatever the weights: adapters, logits, a norm's input


@dataclass(frozen=True)
class Plan:
    """How a model is trained.

    Attributes:
        model: its numbers.
        data_parallel: d.
        tensor_parallel: t.
        lora: rank of adapters on every linear layer but the head; 0 trains all weights.
        dtype: of weights, activations and gradients; adapters are float32, as peft makes them.
        states: dtype of AdamW's two states.
        tokens: T.
        labelled: N.
        reference: "none"; "adapter": the model itself without adapters; "copy": a second model; "cache": its hidden
            states on disk.
        checkpointing: whether only the inputs of layers are kept.
        cpu_offload: whether weights, gradients and states rest on the host.
        workspace: cap of the head's kernels in bytes, None for their default.
        device: "cuda" or "cpu".
    """

    model: Architecture
    data_parallel: int = 1
    tensor_parallel: int = 1
    lora: int = 0
    dtype: str = "bfloat16"
    states: str = "bfloat16"
    tokens: int = 2048
    labelled: int = 2048
    reference: str = "none"
    checkpointing: bool = False
    cpu_offload: bool = False
    workspace: int | None = None
    device: str = "cuda"

    def __post_init__(self) -> None:
        for name in ("data_parallel", "tensor_parallel", "tokens", "labelled"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("dtype", "states"):
            if getattr(self, name) not in BYTES:
                raise ValueError(f"{name}: expected one of {', '.join(BYTES)}, got {getattr(self, name)}")
        if self.reference not in REFERENCES:
            raise ValueError(f"reference: expected one of {', '.join(REFERENCES)}, got {self.reference}")
        if self.reference == "adapter" and not self.lora:
            raise ValueError("reference: expected copy, cache or none where all weights train, got adapter")
        if self.labelled > self.tokens:
            raise ValueError(f"labelled: expected at most the {self.tokens} tokens, got {self.labelled}")
        if self.model.keys % (self.tensor_parallel * self.model.head_size):
            heads = self.model.keys // self.model.head_size
            raise ValueError(
                f"tensor_parallel: expected a divisor of {heads} key-value heads, got {self.tensor_parallel}"
            )

    @property
    def width(self) -> int:
        """b."""
        return BYTES[self.dtype]

    @property
    def gathers(self) -> bool:
        """Whether weights come together for a layer and go apart again."""
        return self.data_parallel > 1 or self.cpu_offload

    @property
    def adapters(self) -> int:
        """Parameters of all adapters."""
        return self.model.layers * self.model.lora_of_layer(self.lora)


@dataclass(frozen=True)
class Part:
    """Bytes on one GPU, and how they were found."""

    bytes: float
    how: str = ""


def giga(size: float) -> str:
    """Bytes as gigabytes (1e9).

    >>> giga(16_060_522_496)
    '16.06 GB'
    """
    return f"{size / 1e9:.2f} GB"


def share(plan: Plan) -> tuple[float, str]:
    """A GPU's part of the model's parameters, and how it was found: norms are not split by tensor parallelism."""
    model, d, t = plan.model, plan.data_parallel, plan.tensor_parallel
    how = f"{model.parameters:,}" if t == 1 else f"({model.split:,} / {t} + {model.norms:,})"
    return (model.split / t + model.norms) / d, how + (f" / {d}" if d > 1 else "")


def resting(plan: Plan) -> dict[str, Part]:
    """What is there between steps: weights, optimiser's states, reference; on the host where it is offloaded."""
    b, d, states = plan.width, plan.data_parallel, BYTES[plan.states]
    own, how = share(plan)
    parts = {"weights": Part(own * b, f"{how} x {b} B")}
    if plan.lora:
        parts["adapters"] = Part(plan.adapters * FLOAT / d, f"{plan.adapters:,} x {FLOAT} B{over(d)}")
    trained, told = (plan.adapters / d, f"{plan.adapters:,}{over(d)}") if plan.lora else (own, how)
    parts["optimiser states"] = Part(2 * states * trained, f"{told} x 2 x {states} B")
    if plan.reference == "copy":
        parts["reference model"] = Part(own * b, f"{how} x {b} B")
    if plan.reference == "cache" and not plan.lora:
        t, table = plan.tensor_parallel, plan.model.table
        parts["reference head"] = Part(table * b / d / t, f"{table:,} x {b} B{over(d * t)}")
    return parts


def over(divisor: int) -> str:
    """A division in words, nothing where it is by 1."""
    return f" / {divisor}" if divisor > 1 else ""


def gradients(plan: Plan) -> Part:
    """Gradients of all that trains, in the dtype of what trains."""
    if plan.lora:
        d = plan.data_parallel
        return Part(plan.adapters * FLOAT / d, f"{plan.adapters:,} x {FLOAT} B{over(d)}")
    own, how = share(plan)
    return Part(own * plan.width, f"{how} x {plan.width} B")


def units(plan: Plan) -> dict[str, float]:
    """Bytes of each FSDP unit once it is gathered; tied, the head has no unit of its own and the root's stays."""
    model, b, t = plan.model, plan.width, plan.tensor_parallel
    layer = (model.split_of_layer / t + model.norms_of_layer) * b + model.lora_of_layer(plan.lora) * FLOAT
    table = model.table / t * b
    if model.tied:
        return {"layer": layer, "root": table + model.hidden * b}
    return {"layer": layer, "embedding": table, "norm and head": table + model.hidden * b}


def gathered(plan: Plan, unit: str) -> Part:
    """The unit at work and the next layer, which is fetched meanwhile; nothing where each GPU has all weights."""
    if not plan.gathers:
        return Part(0, "nothing is sharded")
    sizes = units(plan)
    there = [unit if unit in sizes else "root", "layer"] + (["root"] if "root" in sizes and unit == "layer" else [])
    return Part(sum(sizes[name] for name in there), " + ".join(f"{name} {giga(sizes[name])}" for name in there))
