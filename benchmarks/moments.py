"""What is in a GPU's memory during a step, from arithmetic alone.

A step of ours: one packed forward, the reference's forward where there is one, the head's statistics, one backward, the
optimiser. Memory is added up at the moments when it can be at its peak, and the largest sum is the prediction.

Shapes: those of `plan.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.plan import FLOAT, MIB, Part, Plan, gathered, giga, gradients, over, resting, units
from unlearn_kernels.tiles import CACHE_CPU, DEFAULT_WORKSPACE_CPU, DEFAULT_WORKSPACE_DEVICE


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
    return Part(size, f"T x {b} B x (3 I{over(t)} + 2 D)")


def head_rows(plan: Plan) -> Part:
    """Hidden states that predict the labelled tokens, the reference's, and the gradient of the first."""
    tensors = 2 + (plan.reference != "none")
    size = plan.labelled * plan.model.hidden * plan.width * tensors
    return Part(size, f"{tensors} x N D x {plan.width} B")


def workspace(plan: Plan) -> Part:
    """Tiles of logits: those kept for backward, at most the kernels' cap a call.

    A head that trains is called once for all labelled tokens. A frozen one is called for each role, half of the tokens
    here; where it cannot keep all logits of a call, it leaves gradients of hidden states in float32 instead.
    """
    on_cpu, frozen = plan.device == "cpu", bool(plan.lora)
    cap = plan.workspace or (DEFAULT_WORKSPACE_CPU if on_cpu else DEFAULT_WORKSPACE_DEVICE)
    compared = 1 + (plan.reference != "none")
    logits = plan.labelled * plan.model.vocabulary / plan.tensor_parallel * FLOAT  # of one model
    calls = [0.5 * logits, 0.5 * logits * compared] if frozen else [logits * compared]
    most = held = 0.0
    for kept in calls:
        need = kept + (CACHE_CPU if on_cpu else kept / 8)  # and scratch
        most = max(most, held + min(cap, need))
        held += kept if need <= cap else plan.labelled / len(calls) * plan.model.hidden * FLOAT
    told = f"{len(calls)} calls" if frozen else "1 call"
    return Part(most, f"{told}: logits and scratch of N V{over(plan.tensor_parallel)}, at most {cap // MIB} MiB each")


def head_gradient(plan: Plan) -> Part:
    """Gradient of the head before it is sharded; none where the head is frozen."""
    if plan.lora:
        return Part(0, "frozen")
    b, t = plan.width, plan.tensor_parallel
    return Part(plan.model.table * b / t, f"V D x {b} B{over(t)}")


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
    return Part(tables * model.table * b / t, f"{tables} x V D x {b} B{over(t)}")


def begun(plan: Plan) -> Part:
    """The head's gradient when backward of the layers begins: sharded, unless the root holds it until the end."""
    head, d = head_gradient(plan), plan.data_parallel
    if plan.lora or not plan.gathers or plan.model.tied:
        return head
    return Part(0 if plan.cpu_offload else head.bytes / d, f"the head's{over(d)}")


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
