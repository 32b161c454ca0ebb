from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_unlearn.attacks.quantization import Quantization, quantized, round_to_nearest
from lightning_unlearn.models import Lora, add_lora, load_causal_lm
from tests.attacks.exams import exam, unchanged


def test_rounding_by_hand():
    # 3 bits: levels -3 .. 3; row scales 3 / 3 = 1 and 0.6 / 3 = 0.2
    weight = torch.tensor([[3.0, -1.4, 0.6], [0.6, 0.31, -0.05]])
    torch.testing.assert_close(round_to_nearest(weight, 3), torch.tensor([[3.0, -1.0, 1.0], [0.6, 0.4, 0.0]]))


def test_a_group_has_a_scale_of_its_own():
    # groups of two: [4, 1] with scale 4 -> [4, 0]; [0.5, 0.25] with scale 0.5 -> 0.25 / 0.5 rounds half to even, 0
    weight = torch.tensor([[4.0, 1.0, 0.5, 0.25, 0.1]])
    torch.testing.assert_close(round_to_nearest(weight, 2, group=2), torch.tensor([[4.0, 0.0, 0.5, 0.0, 0.1]]))


def test_rounding_keeps_zeros_and_dtype_and_has_a_bounded_error():
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    weight[2] = 0
    rounded = round_to_nearest(weight, 8)
    assert rounded.dtype == torch.bfloat16
    assert (rounded[2] == 0).all()
    half_step = weight.float().abs().amax(1, keepdim=True) / 127 / 2
    assert ((rounded.float() - weight.float()).abs() <= half_step + 0.004 * weight.float().abs()).all()


def test_decoder_layers_are_rounded_and_no_more(tiny_model_dir):
    model = load_causal_lm(tiny_model_dir())
    coarse = quantized(model, 4)
    changed = {n for n, p in coarse.named_parameters() if not torch.equal(p, model.get_parameter(n))}
    linear = {n + ".weight" for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    assert changed == linear
    for name in changed:
        assert len(coarse.get_parameter(name)[0].unique()) <= 15


@pytest.mark.parametrize("lora", [False, True])
def test_the_model_stays_as_it_was(tiny_model_dir, lora):
    model = load_causal_lm(tiny_model_dir()).train()
    if lora:
        torch.manual_seed(0)
        model = add_lora(model, Lora(r=2))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    asked = exam(tiny_model_dir())
    with unchanged(model):
        points = {x: scores() for x, scores in Quantization(bits=[16, 2]).points(model, asked)}
    assert list(points) == [32, 16, 2]
    assert points[16]["forget/probability"] == pytest.approx(points[32]["forget/probability"], rel=1e-3)
    assert points[2]["forget/probability"] != pytest.approx(points[32]["forget/probability"], rel=1e-3)


def test_nf4(tiny_model_dir):
    pytest.importorskip("bitsandbytes")
    model, asked = load_causal_lm(tiny_model_dir()), exam(tiny_model_dir())
    with unchanged(model):
        points = {x: scores() for x, scores in Quantization(bits=[4], bitsandbytes=True).points(model, asked)}
    assert points[4]["forget/probability"] != points[32]["forget/probability"]
    assert points[4]["forget/probability"] == pytest.approx(points[32]["forget/probability"], rel=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": [8, 1]}, r"bits must be at least 2 each, and one at least, got \[8, 1\]"),
        ({"bits": []}, "bits must be at least 2"),
        ({"group": 0}, "group must be at least 1, got 0"),
        ({"bitsandbytes": True}, r"bits must be \[4\] with bitsandbytes, got \[8, 4\]"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Quantization(**options)
