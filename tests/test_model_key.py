"""A key stays with what a model computes; that of a sharded model is tested in `test_sharding.py`."""

from __future__ import annotations

import torch

from lightning_unlearn.data.packing import pack
from lightning_unlearn.model_key import model_key
from lightning_unlearn.models import Lora, add_lora
from lightning_unlearn.objectives.npo import NPO
from tests.dense import ROWS, tiny


def test_a_key_stays_while_the_model_is_used_and_moves_when_it_trains():
    model = tiny()
    key = model_key(model, "hidden")
    NPO(model, reference=tiny()).losses(pack(ROWS))
    model.train()
    assert model_key(model, "hidden") == key
    assert model_key(model, "log_prob") != key
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-12
    assert model_key(model, "hidden") != key


def test_without_adapters_it_is_that_of_the_model_inside():
    lora = Lora(target_modules=["q_proj", "lm_head"])
    model = add_lora(tiny(), lora)
    assert model_key(model, "hidden", adapters=False) == model_key(tiny(), "hidden")
    assert model_key(model, "hidden") != model_key(tiny(), "hidden")
    key = model_key(model, "hidden")
    lora_b = next(p for name, p in model.named_parameters() if "lora_B" in name)
    torch.nn.init.ones_(lora_b)
    assert model_key(model, "hidden") != key
    assert model_key(model, "hidden", adapters=False) == model_key(tiny(), "hidden")
