from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_unlearn.attacks.base import throwaway
from lightning_unlearn.attacks.best_of_n import BestOfN
from lightning_unlearn.attacks.layer_probe import LayerProbe
from lightning_unlearn.attacks.relearning import Relearning
from lightning_unlearn.models import Lora, add_lora, load_causal_lm
from lightning_unlearn.stress import default_attacks
from tests.attacks.exams import exam, unchanged


def test_names():
    attacks = [BestOfN(), LayerProbe(), Relearning(rows="related")]
    assert [attack.name for attack in attacks] == ["best_of_n", "layer_probe", "relearning_related"]


def test_a_throwaway_copy_computes_the_same_without_adapters(tiny_model_dir):
    model = add_lora(load_causal_lm(tiny_model_dir()), Lora(r=2)).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    with unchanged(model):
        copied = throwaway(model)
    assert not any("lora" in name for name, _ in copied.named_parameters())
    assert all(parameter.requires_grad for parameter in copied.parameters())
    ids = torch.arange(7)[None]
    torch.testing.assert_close(copied(ids).logits, model.eval()(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("attack", default_attacks(), ids=lambda attack: attack.name)
def test_every_attack_says_what_it_measures_and_leaves_no_trace(tiny_model_dir, attack, lora):
    asked = exam(tiny_model_dir(), max_rows=5, max_new_tokens=4)
    if isinstance(attack, Relearning):
        attack.k, attack.steps = 2, [1]
    model = load_causal_lm(tiny_model_dir()).train()
    model = add_lora(model, Lora(r=2)) if lora else model
    attack.check(asked)
    with unchanged(model):
        first, *others = [(x, scores()) for x, scores in attack.points(model, asked)]
        again = [(x, scores()) for x, scores in attack.points(model, asked)]
    assert again == [first, *others]
    assert attack.judged in attack.scores
    assert attack.judged in first[1]
    for _, found in (first, *others):
        assert {key.removesuffix("_error") for key in found} <= attack.scores.keys()
        assert all(0 <= value <= 1 for value in found.values())
