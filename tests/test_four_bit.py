"""LoRA on a base of 4-bit weights."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_unlearn.data.packing import pack
from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.four_bit import dequantized, is_four_bit
from lightning_unlearn.models import Lora, load_causal_lm, model_skeleton, save_model
from lightning_unlearn.objectives.npo import NPO
from tests.dense import ROWS, tiny
from tests.quiet import QUIET

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
IDS = torch.arange(10)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny(dtype=torch.float32, hidden_size=64, intermediate_size=128).save_pretrained(path)
    return path


def objective(folder: Path, **options) -> NPO:
    torch.manual_seed(0)
    chosen = {"retain": "kl", "lora": Lora(dropout=0.0), "load_in_4bit": True, "dtype": "float32", **options}
    return NPO(folder, lr=1e-2, warmup_epochs=0, **chosen)


def numbers(model) -> torch.nn.Module:
    """The same model with what its 4-bit weights stand for, in float32."""
    plain = tiny(dtype=torch.float32, hidden_size=64, intermediate_size=128)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            plain.get_parameter(name).copy_(dequantized(parameter))
    return plain


def test_linear_layers_are_quantised_and_the_head_is_not(folder):
    model = load_causal_lm(folder, load_in_4bit=True)
    assert is_four_bit(model)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert not is_four_bit(model.lm_head)
    original = AutoModelForCausalLM.from_pretrained(folder).get_parameter("model.layers.0.mlp.up_proj.weight")
    error = dequantized(model.model.layers[0].mlp.up_proj.weight) - original
    assert 0.02 < error.norm() / original.norm() < 0.15  # of NF4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_and_gradients_are_those_of_the_numbers(folder, checkpointing):
    ours = objective(folder, gradient_checkpointing=checkpointing)
    ours.configure_model()
    torch.manual_seed(0)
    theirs = NPO(numbers(load_causal_lm(folder, load_in_4bit=True, dtype="float32")), retain="kl", lora=ours.lora)
    theirs.configure_model()
    for one in (ours, theirs):
        one.model.train(checkpointing)
        with torch.no_grad():
            for name, parameter in one.model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter))
    losses, expected = ours.losses(pack(ROWS)), theirs.losses(pack(ROWS))
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    losses["loss"].backward()
    expected["loss"].backward()
    wanted = dict(theirs.model.named_parameters())
    for name, parameter in ours.model.named_parameters():
        if parameter.requires_grad:
            assert wanted[name].grad.any()
            error = (parameter.grad - wanted[name].grad).norm() / wanted[name].grad.norm()
            assert error < 1e-3, f"{name}: {error}"


def test_a_run_trains_adapters_and_saves_16_or_32_bits(folder, tmp_path):
    one = objective(folder)
    rows = {role: ROWS[role] * 2 for role in ("forget", "retain")}
    trainer = L.Trainer(**QUIET, max_epochs=2, default_root_dir=tmp_path)
    trainer.fit(one, UnlearningLoader(rows, batch_size=2))
    moved = [p.detach().abs().sum() > 0 for n, p in one.model.named_parameters() if "lora_B" in n]
    assert all(moved)
    one.model.eval()
    with torch.no_grad():
        expected = one.model(input_ids=IDS).logits
        save_model(one.model, None, tmp_path / "merged")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        assert not is_four_bit(merged)
        assert not hasattr(merged.config, "quantization_config")
        torch.testing.assert_close(merged(input_ids=IDS).logits, expected, rtol=1e-3, atol=1e-3)
        save_model(one.model, None, tmp_path / "adapter", merge_lora=False)
        again = load_causal_lm(tmp_path / "adapter", load_in_4bit=True, dtype="float32").eval()
        torch.testing.assert_close(again(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_is_named(folder, monkeypatch):
    with pytest.raises(ValueError, match="lora must be given with load_in_4bit"):
        NPO(folder, load_in_4bit=True)
    with pytest.raises(ValueError, match="load_in_4bit must be False for a ready module, got a LlamaForCausalLM"):
        load_causal_lm(tiny(), load_in_4bit=True)
    with pytest.raises(ValueError, match="load_in_4bit must be False for a model that is sharded"):
        model_skeleton(folder, load_in_4bit=True)
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match="load_in_4bit must be False where bitsandbytes is not installed"):
        load_causal_lm(folder, load_in_4bit=True)
