"""What a plan of training takes of each GPU's memory, from arithmetic alone.

A step of ours: one packed forward, the reference's forward where there is one, the head's statistics, one backward, the
optimiser. Memory is added up at the moments when it can be at its peak, and the largest sum is the prediction.

Shapes: T packed tokens of a GPU's step, N labelled ones, and those of `architecture.py`; b bytes of a weight, d GPUs
that share weights (FSDP2), t GPUs that split each layer (tensor parallel).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.architecture import Architecture
from unlearn_kernels.tiles import CACHE_CPU, DEFAULT_WORKSPACE_CPU, DEFAULT_WORKSPACE_DEVICE

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
        parts["adapters"] = Part(plan.adapters * FLOAT / d, f"{plan.adapters:,} x {FLOAT} B{_over(d)}")
    trained, told = (plan.adapters / d, f"{plan.adapters:,}{_over(d)}") if plan.lora else (own, how)
    parts["optimiser states"] = Part(2 * states * trained, f"{told} x 2 x {states} B")
    if plan.reference == "copy":
        parts["reference model"] = Part(own * b, f"{how} x {b} B")
    if plan.reference == "cache" and not plan.lora:
        t, table = plan.tensor_parallel, plan.model.table
        parts["reference head"] = Part(table * b / d / t, f"{table:,} x {b} B{_over(d * t)}")
    return parts


def _over(divisor: int) -> str:
    return f" / {divisor}" if divisor > 1 else ""


def gradients(plan: Plan) -> Part:
    """Gradients of all that trains, in the dtype of what trains."""
    if plan.lora:
        d = plan.data_parallel
        return Part(plan.adapters * FLOAT / d, f"{plan.adapters:,} x {FLOAT} B{_over(d)}")
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


def activations_of_layer(plan: Plan) -> Part:
    """What a layer keeps for backward, attention without a [T, T] matrix; as transformers' Llama writes it.

    A norm keeps its input (in float32) and, where its weight trains, what it multiplies. A linear layer keeps its input
    where it trains; an adapter keeps one in float32. Attention keeps q, k, v and its result, the MLP gate, silu(gate),
    up and their product. On a CPU rows are attended to one by one, and the results kept once more.
    """
    model, b, t = plan.model, plan.width, plan.tensor_parallel
    half = b < FLOAT
    copies = 1 + (plan.device == "cpu")
    if plan.lora and half:  # every adapter casts its input for itself
        wide = 2 * FLOAT * model.hidden + 5 * FLOAT * model.hidden
        narrow = b * (2 * model.heads + 2 * model.keys + 3 * model.intermediate)
        narrow += FLOAT * (model.heads + model.intermediate)
        told = f"4 x 7 D + {b} x (2 HE + 2 KE + 3 I) + 4 x (HE + I)"
    else:
        norm = (2 if plan.lora else 3) * b if not half else FLOAT + 2 * b
        wide = 2 * norm * model.hidden
        narrow = b * ((1 + copies) * model.heads + 2 * model.keys + 4 * model.intermediate)
        told = f"{2 * norm} D + {b} x ({1 + copies} HE + 2 KE + 4 I)"
    each = wide + narrow / t
    if t > 1:
        told += f", all but D / {t}"
    return Part(plan.tokens * each, f"T ({told}) = {plan.tokens:,} x {each:,.0f} B")


def kept_activations(plan: Plan) -> Part:
    """What forward keeps of all layers: their inputs alone with checkpointing."""
    model = plan.model
    if plan.checkpointing:
        size = model.layers * plan.tokens * model.hidden * plan.width
        return Part(size, f"{model.layers} x T D x {plan.width} B")
    layer = activations_of_layer(plan)
    return Part(model.layers * layer.bytes, f"{model.layers} x {giga(layer.bytes)}")


def transient(plan: Plan) -> Part:
    """What backward of a layer holds for a moment: gradients of gate, up and their product, and of two streams."""
    b, t = plan.width, plan.tensor_parallel
    size = plan.tokens * b * (3 * plan.model.intermediate / t + 2 * plan.model.hidden)
    return Part(size, f"T x {b} B x (3 I{_over(t)} + 2 D)")


def head_rows(plan: Plan) -> Part:
    """Hidden states that predict the labelled tokens, the reference's, and the gradient of the first."""
    tensors = 2 + (plan.reference != "none")
    size = plan.labelled * plan.model.hidden * plan.width * tensors
    return Part(size, f"{tensors} x N D x {plan.width} B")


def workspace(plan: Plan) -> Part:
    """Tiles of logits: all that are kept for backward, at most the cap."""
    default = DEFAULT_WORKSPACE_CPU if plan.device == "cpu" else DEFAULT_WORKSPACE_DEVICE
    cap = plan.workspace or default
    models = 1 + (plan.reference != "none")
    logits = plan.labelled * plan.model.vocabulary / plan.tensor_parallel * FLOAT * models
    scratch = CACHE_CPU if plan.device == "cpu" else logits / 8
    if cap <= logits + scratch:
        return Part(cap, f"the kernels' cap of {cap // MIB} MiB")
    return Part(logits + scratch, f"{models} x N V{_over(plan.tensor_parallel)} x 4 B and scratch")


def head_gradient(plan: Plan) -> Part:
    """Gradient of the head before it is sharded; none where the head is frozen."""
    if plan.lora:
        return Part(0, "frozen")
    b, t = plan.width, plan.tensor_parallel
    return Part(plan.model.table * b / t, f"V D x {b} B{_over(t)}")


def unit_gradient(plan: Plan) -> Part:
    """Gradient of a layer before it is sharded."""
    if not plan.gathers:
        return Part(0, "nothing is sharded")
    if plan.lora:
        return Part(plan.model.lora_of_layer(plan.lora) * FLOAT, "a layer's adapters")
    return Part(units(plan)["layer"], "a layer")


def of_tables(plan: Plan) -> Part:
    """Gradients of embedding and tied head before they are sharded or added up, when backward ends at the embedding."""
    b, t, model = plan.width, plan.tensor_parallel, plan.model
    if plan.lora or not (plan.gathers or model.tied):
        return Part(0, "frozen" if plan.lora else "in place")
    tables = 1 + (model.tied and plan.gathers)
    return Part(tables * model.table * b / t, f"{tables} x V D x {b} B{_over(t)}")


def begun(plan: Plan) -> Part:
    """The head's gradient when backward of the layers begins: sharded, unless the root holds it until the end."""
    head, d = head_gradient(plan), plan.data_parallel
    if plan.lora or not plan.gathers or plan.model.tied:
        return head
    return Part(0 if plan.cpu_offload else head.bytes / d, f"the head's{_over(d)}")


def before_embedding(plan: Plan) -> Part:
    """Gradients when only the embedding's is missing."""
    grads = gradients(plan)
    if plan.lora or plan.model.tied:
        return grads
    shards = plan.data_parallel * plan.tensor_parallel
    return Part(grads.bytes - plan.model.table * plan.width / shards, "all but the embedding's")


def moments(plan: Plan) -> dict[str, dict[str, Part]]:
    """What is in a GPU's memory, part by part, at each moment that can be the peak."""
    nothing = Part(0, "on the host")
    rest = dict.fromkeys(resting(plan), nothing) if plan.cpu_offload else resting(plan)
    kept, layer, none = kept_activations(plan), activations_of_layer(plan), Part(0)
    passing = {
        "gathered": gathered(plan, "layer"),
        "of a layer's backward": transient(plan),
        "gradient of a unit": unit_gradient(plan),
    }
    return {
        "head": {
            **rest,
            "gathered": gathered(plan, "norm and head"),
            "activations": kept,
            "hidden rows": head_rows(plan),
            "head workspace": workspace(plan),
            "gradient of the head": head_gradient(plan),
        },
        "backward begins": {
            **rest,
            "activations": kept,
            "a layer's activations": layer if plan.checkpointing else none,
            **passing,
            "gradients": begun(plan),
        },
        "backward ends": {
            **rest,
            "a layer's activations": layer,
            **passing,
            "gradients": nothing if plan.cpu_offload else before_embedding(plan),
        },
        "embedding": {
            **rest,
            "gathered": gathered(plan, "embedding"),
            "gradients": nothing if plan.cpu_offload else gradients(plan),
            "gradients of tables": of_tables(plan),
        },
    }


def total(parts: Mapping[str, Part]) -> float:
    """Bytes of all parts."""
    return sum(part.bytes for part in parts.values())


def peak(plan: Plan) -> tuple[str, float]:
    """The moment of the peak, and its bytes."""
    sums = {name: total(parts) for name, parts in moments(plan).items()}
    name = max(sums, key=lambda moment: sums[moment])
    return name, sums[name]


def giga(size: float) -> str:
    """Bytes as gigabytes (1e9).

    >>> giga(16_060_522_496)
    '16.06 GB'
    """
    return f"{size / 1e9:.2f} GB"
