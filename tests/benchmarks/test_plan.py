"""A decoder small enough to add up by hand: D 8, I 16, 2 layers, 2 heads and 1 key-value head of 4, V 20."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.architecture import Architecture, architecture, read_config
from benchmarks.moments import activations_of_layer, head_rows, kept_activations, moments, peak, total, workspace
from benchmarks.plan import Plan, gathered, gradients, resting
from benchmarks.shapes import SHAPES
from benchmarks.traffic import traffic
from lightning_unlearn.models import Lora, add_lora

SMALL = Architecture(8, 16, 2, 8, 4, 4, 20, tied=False)
FULL = Plan(SMALL, dtype="float32", states="float32", tokens=10, labelled=5, reference="copy")
LORA = Plan(SMALL, 2, 1, 2, "bfloat16", "float32", 10, 5, "adapter", checkpointing=True)
SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def sizes(parts):
    return {name: part.bytes for name, part in parts.items()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("qwen3", {"attention_bias": True}),
    ],
)
def test_parameters_are_those_of_the_model(kind, options, tied):
    config = AutoConfig.for_model(kind, **SIZES, **options, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = architecture(config)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    adapted = add_lora(model, Lora(r=3))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == found.layers * found.lora_of_layer(3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # of the published checkpoints
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
    ],
)
def test_built_in_shapes_have_the_parameters_of_the_checkpoints(name, parameters):
    assert architecture(SHAPES[name].config()).parameters == parameters


def test_a_config_that_cannot_be_counted_is_an_error(tmp_path):
    config = AutoConfig.for_model("gpt2")
    with pytest.raises(ValueError, match=r"--model: expected one of the kinds llama, .*, got gpt2"):
        architecture(config)
    config.save_pretrained(tmp_path)
    assert read_config(str(tmp_path)).model_type == "gpt2"
    with pytest.raises(ValueError, match=r"--model: expected tiny, .*, a folder or a checkpoint, got no/such"):
        read_config("no/such")


def test_one_gpu_that_trains_all_weights():
    # a layer: 64 + 32 + 32 + 64 + 3 x 128 = 576, and two norms of 8; in all 2 x 592 + 8 + 2 x 160
    assert SMALL.parameters == 1512
    assert sizes(resting(FULL)) == {"weights": 6048, "optimiser states": 12096, "reference model": 6048}
    assert gradients(FULL).bytes == 6048
    # a token and layer: norms 2 x 3 x 4 x 8; q, result, k, v, MLP 4 x (16 + 8 + 64)
    assert activations_of_layer(FULL).bytes == 10 * (192 + 352)
    assert activations_of_layer(replace(FULL, device="cpu")).bytes == 10 * (192 + 352 + 32)
    assert kept_activations(FULL).bytes == 10880
    assert head_rows(FULL).bytes == 3 * 5 * 8 * 4
    assert workspace(FULL).bytes == 2 * 5 * 20 * 4 * 9 / 8
    assert workspace(replace(FULL, workspace=512)).bytes == 512
    rest, passing = 24192, 10 * 4 * (3 * 16 + 2 * 8)
    assert {name: total(parts) for name, parts in moments(FULL).items()} == {
        "head": rest + 10880 + 480 + 900 + 640,
        "backward begins": rest + 10880 + passing + 640,
        "backward ends": rest + 5440 + passing + 6048 - 640,
        "embedding": rest + 6048,
    }
    assert peak(FULL) == ("backward begins", 38272)


def test_sharded_adapters():
    # a layer's adapters: 2 x (16 + 12 + 12 + 16 + 24 + 24 + 24)
    assert SMALL.lora_of_layer(2) == 256
    assert sizes(resting(LORA)) == {"weights": 1512, "adapters": 1024, "optimiser states": 2048}
    assert gradients(LORA).bytes == 1024
    layer = 592 * 2 + 256 * 4
    assert gathered(LORA, "norm and head").bytes == 168 * 2 + layer
    assert gathered(LORA, "layer").bytes == 2 * layer
    # float32: two norms' inputs and five casts of D, one of HE, one of I; 16 bit: q, result, k, v, 3 I
    assert activations_of_layer(LORA).bytes == 10 * (4 * 7 * 8 + 4 * (8 + 16) + 2 * (16 + 8 + 48))
    assert kept_activations(LORA).bytes == 2 * 10 * 8 * 2
    assert "gradient of the head" in moments(LORA)["head"]
    assert moments(LORA)["head"]["gradient of the head"].bytes == 0
    weights = 2 * layer + 2 * 320 + 16
    assert sizes(traffic(LORA)) == {
        "all-gather, forward": weights / 2,
        "all-gather, backward": weights / 2,
        "all-gather, reference": weights / 2,
        "reduce-scatter, gradients": 512 * 4 / 2,
    }
    assert "all-gather, reference" not in traffic(replace(LORA, reference="cache"))


def test_a_frozen_head_is_called_for_each_role():
    small = replace(LORA, data_parallel=1)
    # 5 x 20 logits in float32: half of them once, half twice for the model and the reference, and an eighth of scratch
    assert workspace(small).bytes == 200 + 400 * 9 / 8
    # what cannot be kept leaves a gradient of hidden states: 5 / 2 x 8 in float32
    assert workspace(replace(small, workspace=100)).bytes == 100 + 80


def test_tensor_parallel():
    plan = Plan(replace(SMALL, keys=8), 1, 2, tokens=10, labelled=5)
    # a layer's 640 weights and both tables are split, its norms and the last are not
    assert resting(plan)["weights"].bytes == ((2 * 640 + 320) / 2 + 40) * 2
    # bfloat16, norms 2 x (4 + 2 x 2) x 8; half of 2 x (16 + 16 + 64)
    assert activations_of_layer(plan).bytes == 10 * (128 + 96)
    assert sizes(traffic(plan)) == {
        "all-reduce, forward": 5 * 160,  # two a layer and the embedding's, T D in bfloat16, 2 x 1/2 of it
        "all-reduce, backward": 4 * 160,
        "loss: all-gather of sums": 5 * 13 * 4,
        "loss: all-reduce of d_hidden": 5 * 8 * 4,
    }
    again = traffic(replace(plan, checkpointing=True, reference="copy"))
    assert again["all-reduce, forward"].bytes == 13 * 160


def test_a_tied_head_is_the_root_and_stays():
    plan = Plan(replace(SMALL, tied=True), 2, tokens=10, labelled=5)
    assert gathered(plan, "layer").bytes == 2 * 592 * 2 + 168 * 2
    assert moments(plan)["embedding"]["gradients of tables"].bytes == 2 * 160 * 2
    alone = replace(plan, data_parallel=1)
    assert moments(alone)["embedding"]["gradients of tables"].bytes == 160 * 2
    assert gathered(alone, "layer").bytes == 0


def test_what_is_offloaded_is_on_the_host_but_for_units():
    plan = replace(FULL, cpu_offload=True)
    parts = moments(plan)
    assert all(parts["head"][name].bytes == 0 for name in resting(plan))
    assert parts["backward ends"]["gradients"].bytes == 0
    assert parts["head"]["gathered"].bytes == (168 + 592) * 4
    assert sizes(traffic(plan)) == {"from the host": 3 * 1512 * 4}  # forward, backward, and the copy's forward
    assert traffic(FULL) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "tokens: expected at least 1, got 0"),
        ({"dtype": "int8"}, "dtype: expected one of float32, bfloat16, float16, got int8"),
        ({"reference": "disk"}, "reference: expected one of none, adapter, copy, cache, got disk"),
        ({"reference": "adapter"}, "reference: expected copy, cache or none where all weights train, got adapter"),
        ({"labelled": 11}, "labelled: expected at most the 10 tokens, got 11"),
        ({"tensor_parallel": 2}, "tensor_parallel: expected a divisor of 1 key-value heads, got 2"),
    ],
)
def test_plans_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        replace(FULL, **change)
