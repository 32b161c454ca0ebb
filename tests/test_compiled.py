"""Layers that are compiled compute what they did."""

from __future__ import annotations

import pytest
import torch

from lightning_unlearn.compiled import compile_layers
from lightning_unlearn.data.packing import pack
from lightning_unlearn.models import Lora
from lightning_unlearn.objectives.npo import NPO
from tests.dense import ROWS, assert_same_gradients, gradients, make_rows, tiny


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_norms_and_mlps_are_compiled_and_attention_is_not(arch, monkeypatch):
    sizes = {"head_dim": 4} if arch == "gemma2" else {}
    model, compiled = tiny(arch, **sizes), []
    names = {id(module): name for name, module in model.named_modules()}
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled.append(names[id(self)]))
    compile_layers(model)
    assert any("mlp" in name for name in compiled)
    assert any("norm" in name or "ln_" in name for name in compiled)
    assert not any("attention" in name.split(".")[-1] or "attn" in name.split(".")[-1] for name in compiled)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"lora": Lora(dropout=0.0)}, {"gradient_checkpointing": True}])
def test_losses_and_gradients_are_the_same_for_any_number_of_tokens(options):
    found = []
    for compiled in (False, True):
        torch.manual_seed(7)
        objective = NPO(tiny(), retain="kl", compile_layers=compiled, **options)
        objective.configure_model()
        objective.model.train(bool(options.get("gradient_checkpointing")))
        for answers in ((4, 1, 7), (9, 2, 3), (5,)):
            rows = {"forget": make_rows(answers, seed=1), "retain": ROWS["retain"]}
            loss = objective.losses(pack(rows))["loss"]
            found.append((loss.detach(), gradients(loss, objective.model)))
    half = len(found) // 2
    for (loss, ours), (expected, theirs) in zip(found[half:], found[:half], strict=True):
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)  # norms compute in float32
        assert_same_gradients(ours, theirs, tolerance=1e-5)
    counters = torch._dynamo.utils.counters["frames"]
    assert counters["ok"] > 0


def test_sharded_layers_are_not_compiled():
    objective = NPO(tiny(), compile_layers=True)
    objective._device_mesh = object()
    with pytest.raises(ValueError, match="compile_layers must be False for a model that is sharded"):
        objective.configure_model()
