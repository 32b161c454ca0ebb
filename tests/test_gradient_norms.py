"""Norms of rows' gradients in one backward pass against the gradients of one row after another."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lightning_unlearn import gradient_norms
from lightning_unlearn.gradient_norms import row_gradient_norms
from tests.dense import make_rows, tiny

ROWS = make_rows([4, 1, 7, 2, 5], seed=1)
SMALL_HEADS = {"head_dim": 4}
ARCHITECTURES = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-bias": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {},
    "qwen3": SMALL_HEADS,
    "phi3": {},
    "olmo2": {},
    "gpt_neox": {},
    "gpt2": {},
    "mistral": {},
    "gemma2": {**SMALL_HEADS, "query_pre_attn_scalar": 4, "final_logit_softcapping": 3.0},
    "gemma3_text": {**SMALL_HEADS, "query_pre_attn_scalar": 4},
    "granite": {"logits_scaling": 4.0},
    "falcon": {},  # is padded
}


def one_by_one(model: nn.Module) -> list[float]:
    """The same from the plain forward of each row, with a gradient of every weight."""
    norms = []
    for row in ROWS:
        model.zero_grad()
        logits = model(input_ids=torch.from_numpy(row.input_ids)[None], use_cache=False).logits[0]
        chosen = logits[torch.from_numpy(row.target_positions)]
        nn.functional.cross_entropy(chosen, torch.from_numpy(row.targets)).backward()
        squares = (weight.grad.square().sum() for weight in model.parameters() if weight.grad is not None)
        norms.append(sum(squares).sqrt().item())
    return norms


def never(*arguments):
    raise AssertionError("the rows were taken one by one")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("budget", [1, 2048])
def test_equal_the_norms_of_rows_one_by_one(monkeypatch, arch, budget):
    dtype = torch.float32 if arch == "gemma2" else torch.float64
    model = tiny(arch.partition("-")[0], dtype=dtype, **ARCHITECTURES[arch])
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms and biases that are not 1 and 0
                weight.add_(torch.linspace(-0.3, 0.3, len(weight)))
    expected = one_by_one(model)
    if budget > 1:  # alone, a row may be as long as there are heads: which is which cannot be told
        monkeypatch.setattr(gradient_norms, "_squared_norm_of_one", never)
    assert row_gradient_norms(model, ROWS, tokens_per_batch=budget) == pytest.approx(expected, rel=1e-4)
    assert len({round(norm, 6) for norm in expected}) == len(ROWS)


def test_experts_take_a_backward_a_row():
    model = tiny("mixtral", num_local_experts=4, dtype=torch.float32)
    expected = one_by_one(model)
    assert row_gradient_norms(model, ROWS) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_adapters_are_part_of_the_weights_that_they_are_added_to(targets):
    options = {"init_lora_weights": False, "target_modules": targets, "lora_dropout": 0.5}
    model = get_peft_model(tiny("llama"), LoraConfig(r=2, **options)).double()
    before = row_gradient_norms(model, ROWS)
    alone = [gradient_norms._squared_norm_of_one(model.eval(), gradient_norms.pack({"rows": [row]})) for row in ROWS]
    merged = model.merge_and_unload()
    for weight in merged.parameters():
        weight.requires_grad_(True)
    expected = one_by_one(merged)
    assert before == pytest.approx(expected, rel=1e-5)
    assert np.sqrt(alone).tolist() == pytest.approx(expected, rel=1e-5)


def test_leaves_the_model_as_it_was():
    model = tiny("llama").train()
    frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = row_gradient_norms(model, ROWS)
    assert model.training
    assert [weight.requires_grad for weight in model.parameters()].count(False) == 1
    assert not frozen.requires_grad
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.equal(weights[name]) for name, weight in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert found == pytest.approx(row_gradient_norms(model, ROWS), rel=1e-12)
    assert row_gradient_norms(model, []) == []
    with pytest.raises(ValueError, match="tokens_per_batch must be at least 1, got 0"):
        row_gradient_norms(model, ROWS, tokens_per_batch=0)
