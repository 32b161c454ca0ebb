from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_unlearn.models import (
    Lora,
    add_lora,
    layer_count,
    load_causal_lm,
    load_tokenizer,
    save_model,
    select_trainable,
)
from tests.dense import tiny

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def trained(model) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def with_lora(arch: str = "llama", **options) -> PeftModel:
    """A model whose adapters have been trained: their second factor is no longer zero."""
    model = add_lora(tiny(arch, dtype=torch.float32), Lora(**options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_a_ready_module_is_returned_as_it_is():
    model = tiny()
    assert load_causal_lm(model) is model


def test_a_folder_is_loaded(tiny_model_dir):
    model = load_causal_lm(tiny_model_dir("llama"))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.float32
    assert load_causal_lm(str(tiny_model_dir("llama")), dtype="bfloat16").dtype == torch.bfloat16
    eager = load_causal_lm(tiny_model_dir("llama"), attn_implementation="eager")
    assert eager.config._attn_implementation == "eager"


def test_the_precision_is_the_checkpoints(tmp_path):
    tiny(dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert load_causal_lm(tmp_path).dtype == torch.bfloat16


def test_pickled_weights_are_refused(tmp_path):
    model = tiny()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="model must be the name or folder of a causal LM with safetensors weights"):
        load_causal_lm(tmp_path)


def test_pickled_weights_below_an_adapter_are_refused(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model = tiny(dtype=torch.float32)
    model.save_pretrained(base)
    get_peft_model(load_causal_lm(base), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(adapter)
    assert isinstance(load_causal_lm(adapter), PeftModel)
    (base / "model.safetensors").unlink()
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    with pytest.raises(ValueError, match="with safetensors weights"):
        load_causal_lm(adapter)


def test_a_pickled_adapter_is_refused(tmp_path, tiny_model_dir):
    model = get_peft_model(load_causal_lm(tiny_model_dir("llama")), LoraConfig(task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors"):
        load_causal_lm(tmp_path)


def test_code_of_a_checkpoint_is_not_run_unless_asked_for(tmp_path, tiny_model_dir):
    (tmp_path / "evil.py").write_text("raise RuntimeError('code of the checkpoint ran')\n")
    config = json.loads((tiny_model_dir("llama") / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_causal_lm(tmp_path)
    with pytest.raises(RuntimeError, match="code of the checkpoint ran"):
        load_causal_lm(tmp_path, trust_remote_code=True)


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/folder"])
def test_a_name_that_cannot_be_found_is_one_clear_line(name):
    with pytest.raises(ValueError, match=f"^model must be the name or folder .* got '{name}'") as error:
        load_causal_lm(name)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"^tokenizer must be the name or folder of a tokenizer, got '{name}'"):
        load_tokenizer(name)


def test_tokenizers(tiny_model_dir, tiny_tokenizer):
    assert load_tokenizer(tiny_tokenizer) is tiny_tokenizer
    assert len(load_tokenizer(tiny_model_dir("llama"))) == len(tiny_tokenizer)


def test_lora_trains_adapters_on_every_linear_layer_but_the_head():
    model = add_lora(tiny(), Lora(r=4, alpha=16, dropout=0.1))
    names = trained(model)
    assert len(names) == 2 * 7 * 2  # layers x projections x factors
    assert all("lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 16, 0.1)
    torch.testing.assert_close(logits(model), logits(tiny()))  # they start at zero


def test_lora_defaults_are_those_of_closer_look():
    assert Lora() == Lora(r=8, alpha=32, dropout=0.05, target_modules="all-linear")


def test_lora_on_chosen_modules():
    assert len(trained(add_lora(tiny(), Lora(target_modules=["q_proj"])))) == 4


def test_lora_on_a_model_that_has_adapters_is_refused():
    """Two objectives with LoRA on one ready module would put adapters into each other."""
    model = tiny()
    add_lora(model, Lora())
    with pytest.raises(ValueError, match="lora must be None for a model that has adapters already"):
        add_lora(model, Lora())


def test_select_layers():
    model = tiny()
    select_trainable(model, layers=[-1])
    assert trained(model)
    assert all(name.startswith("model.layers.1.") for name in trained(model))


def test_select_names():
    model = tiny()
    select_trainable(model, patterns=["*.down_proj.*", "lm_head.*"])
    assert trained(model) == [f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)] + ["lm_head.weight"]


def test_select_both_means_that_both_hold():
    model = tiny()
    select_trainable(model, layers=[0], patterns=["*.q_proj.*", "lm_head.*"])
    assert trained(model) == ["model.layers.0.self_attn.q_proj.weight"]


def test_layer_1_is_not_layer_10():
    model = tiny(num_hidden_layers=11)
    select_trainable(model, layers=[1], patterns=["*.q_proj.*"])
    assert trained(model) == ["model.layers.1.self_attn.q_proj.weight"]


def test_select_never_unfreezes():
    model = add_lora(tiny(), Lora())
    select_trainable(model, layers=[1])
    assert trained(model)
    assert all("layers.1." in name and "lora_" in name for name in trained(model))


def test_select_nothing_leaves_everything():
    model = tiny()
    select_trainable(model)
    assert len(trained(model)) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layers": [2]}, r"train_layers must be in \[-2, 2\), got \[2\]"),
        ({"layers": [-3, 0]}, r"train_layers must be in \[-2, 2\), got \[-3\]"),
        ({"layers": []}, "must leave a parameter to train"),
        ({"patterns": ["*.q_prj.*"]}, "must leave a parameter to train"),
    ],
)
def test_select_what_does_not_exist(choice, message):
    with pytest.raises(ValueError, match=message):
        select_trainable(tiny(), **choice)


def test_select_layers_of_a_model_without_layers():
    with pytest.raises(ValueError, match="list of decoder layers, got Linear"):
        select_trainable(torch.nn.Linear(2, 2), layers=[0])


def test_save_and_load_a_full_model(tmp_path, tiny_tokenizer):
    model = tiny(dtype=torch.float32)
    save_model(model, tiny_tokenizer, tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(tiny_tokenizer)
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize(
    ("arch", "overrides"),
    [("llama", {}), ("gpt2", {"target_modules": ["c_attn", "c_fc"]}), ("gpt_neox", {"target_modules": "all-linear"})],
)
def test_save_merges_adapters_and_leaves_the_live_model_alone(tmp_path, arch, overrides):
    model = with_lora(arch, **overrides)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = logits(model)
    save_model(model, None, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    assert not (tmp_path / "adapter_config.json").exists()
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_save_merges_into_tied_embeddings(tmp_path):
    model = add_lora(tiny(dtype=torch.float32, tie_word_embeddings=True), Lora())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(model, None, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_one_of_two_tied_weights_unties_what_is_saved(tmp_path, arch, target):
    model = add_lora(tiny(arch, dtype=torch.float32, tie_word_embeddings=True), Lora(r=2, target_modules=[target]))
    model.eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(model, None, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not merged.config.tie_word_embeddings
    assert not torch.equal(merged.lm_head.weight, merged.model.embed_tokens.weight)
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)
    assert model.get_base_model().config.tie_word_embeddings


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"lora_bias": True}, {"modules_to_save": ["lm_head"]}, {"bias": "lora_only"}],
    ids=lambda options: next(iter(options)),
)
def test_save_merges_other_kinds_of_adapters(tmp_path, options):
    base = tiny(dtype=torch.float32, attention_bias=True)
    model = get_peft_model(base, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    expected = logits(model)
    save_model(model, None, tmp_path)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), expected)


def test_save_the_adapter_alone(tmp_path, tiny_model_dir):
    model = add_lora(load_causal_lm(tiny_model_dir("llama")), Lora())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(model, None, tmp_path, merge_lora=False)
    assert (tmp_path / "adapter_model.safetensors").exists()
    again = load_causal_lm(tmp_path)
    assert isinstance(again, PeftModel)
    assert trained(again) == trained(model)
    assert torch.equal(logits(again), logits(model))


def test_save_keeps_the_precision(tmp_path):
    save_model(add_lora(tiny(dtype=torch.bfloat16), Lora()), None, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16


def test_a_module_that_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must have save_pretrained to be exported, got Linear"):
        save_model(torch.nn.Linear(2, 2), None, tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tiny_model_dir, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("mine")
    with pytest.raises(ValueError, match=r"folder must be a folder, new or old, got the file .*config\.yaml"):
        save_model(load_causal_lm(tiny_model_dir()), None, file)
    assert file.read_text() == "mine"


def test_a_folder_without_tokenizer_is_named(tiny_model_dir, tmp_path):
    (tmp_path / "config.json").write_text((tiny_model_dir() / "config.json").read_text())
    with pytest.raises(ValueError, match=f"tokenizer must be the name or folder of a tokenizer, got '{tmp_path}'"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_layers_are_counted_without_weights(tiny_model_dir, tmp_path, arch):
    source = tiny_model_dir(arch)
    assert layer_count(source) == 2
    adapted = add_lora(load_causal_lm(source), Lora())
    assert layer_count(adapted) == 2
    save_model(adapted, None, tmp_path / "adapter", merge_lora=False)
    assert layer_count(tmp_path / "adapter") == 2
    assert layer_count(torch.nn.Linear(2, 2)) is None
    with pytest.raises(ValueError, match="model must be the name or folder of a causal LM"):
        layer_count(tmp_path)
