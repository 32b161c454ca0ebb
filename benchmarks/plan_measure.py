"""The step that a plan predicts, run on one device: ME+GD, or NPO+KL where there is a reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from benchmarks.contenders import LORA, OBJECTIVES, make_optimizer, trained
from benchmarks.plan import Plan
from benchmarks.timing import peak_bytes
from lightning_unlearn.data.packing import TokenRow, pack
from lightning_unlearn.models import add_lora

ROW = 64  # tokens of a row, about TOFU's mean


def measured_peak(config: PreTrainedConfig, plan: Plan) -> int:
    """Bytes at the peak of a step, the model included; on a CPU what PyTorch's allocator gave out.

    Args:
        config: of the model, with random weights.
        plan: for one device, with a reference that is no cache.
    """
    torch.manual_seed(0)
    with torch.device(plan.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, plan.dtype))
    if plan.lora:
        model = add_lora(model, replace(LORA, r=plan.lora))
    compared = plan.reference != "none"
    make, options = OBJECTIVES["NPO+KL" if compared else "ME+GD"]
    reference = plan.reference if compared else "auto"
    objective = make(model.train(), reference=reference, gradient_checkpointing=plan.checkpointing, **options)
    batch = pack(random_rows(plan, config.vocab_size)).to(plan.device)
    optimizer = make_optimizer(trained(model))

    def step() -> tuple:
        optimizer.zero_grad()
        objective.losses(batch)["loss"].backward()
        optimizer.step()
        return ()

    step()  # makes the optimiser's states and the reference
    optimizer.zero_grad()
    held = sum(p.nbytes for p in model.parameters()) * (1 + (plan.reference == "copy"))
    held += sum(x.nbytes for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor))
    return held + peak_bytes(step, plan.device)


def random_rows(plan: Plan, vocabulary: int) -> dict[str, list[TokenRow]]:
    """Rows of random ids for both roles: T tokens in all, of which the last N / T of each row are labelled."""
    generator = np.random.default_rng(0)
    lengths = [ROW] * (plan.tokens // ROW) + ([plan.tokens % ROW] if plan.tokens % ROW else [])
    rows = []
    for length in lengths:
        labelled = max(1, length * plan.labelled // plan.tokens)
        ids = generator.integers(3, vocabulary, length + 1)
        rows.append(TokenRow(ids[:-1], np.arange(length - labelled, length), ids[1 + length - labelled :]))
    half = (len(rows) + 1) // 2
    return {"forget": rows[:half], "retain": rows[half:]}
