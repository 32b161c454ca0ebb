"""The output head: read from a model, with LoRA on it or not, and what is refused."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lightning_unlearn.data.packing import pack
from lightning_unlearn.forward import hidden_states, token_statistics
from lightning_unlearn.head import Head, LowRank, output_head
from lightning_unlearn.objectives.npo import NPO
from tests.dense import ROWS, assert_same_gradients, gradients, tiny


@pytest.mark.parametrize(("arch", "options"), [("cohere", {"logit_scale": 0.3}), ("granite", {"logits_scaling": 4.0})])
def test_the_logit_scale_is_applied(arch, options):
    model, batch = tiny(arch, **options), pack(ROWS)
    head = output_head(model)
    assert head.logit_scale == pytest.approx(0.3 if arch == "cohere" else 0.25)
    ids, mask, place = batch.padded()
    logits = model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)[place][batch.target_index]
    torch.testing.assert_close(head.logits(hidden_states(model, batch)), logits, rtol=0, atol=1e-5)


def test_a_soft_cap_is_read_from_the_config():
    assert output_head(tiny("gemma2", final_logit_softcapping=30.0)).softcap == 30.0
    logits = Head(torch.tensor([[100.0]]), softcap=2.0).logits(torch.tensor([[1.0]]))
    assert logits.item() == pytest.approx(2.0)  # 2 tanh(50)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2), r"model must be a transformers causal LM.*got Linear"),
        (tiny("llama").model, r"model must be a transformers causal LM.*got LlamaModel"),
    ],
)
def test_a_module_without_a_head_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        token_statistics(model, pack(ROWS))


def test_prompt_learning_is_refused():
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(tiny(), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="prompt-learning adapters are not supported"):
        token_statistics(model, pack(ROWS))


def with_lora_on_the_head(arch="llama", seed=3, **options):
    """A tiny model with LoRA on the head and one more layer, its adapters not at zero."""
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["lm_head", "q_proj"], task_type="CAUSAL_LM", **options)
    model = get_peft_model(tiny(arch), config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def dense_log_prob(model, batch):
    ids, mask, place = batch.padded()
    logits = model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)[place][batch.target_index]
    return logits.log_softmax(-1).gather(1, batch.targets.unsqueeze(1)).squeeze(1)


def test_lora_on_the_head_gives_the_models_own_log_probs_and_gradients():
    model, batch = with_lora_on_the_head(), pack(ROWS)
    ours, expected = token_statistics(model, batch).log_prob, dense_log_prob(model, batch)
    torch.testing.assert_close(ours, expected)
    weights = torch.linspace(1, 2, len(ours), dtype=torch.float64)
    found = gradients((weights * ours).sum(), model)
    assert sum("lm_head.lora_" in name for name in found) == 2
    assert_same_gradients(found, gradients((weights * expected).sum(), model))


def test_several_adapters_add_and_switched_off_ones_do_not():
    model, batch = with_lora_on_the_head(), pack(ROWS)
    layer = model.get_base_model().lm_head
    layer.update_layer("second", 2, 3, lora_dropout=0.0, init_lora_weights=False, config=model.peft_config["default"])
    model.double()
    layer.set_adapter(["default", "second"])
    assert len(output_head(model).adapters) == 2
    torch.testing.assert_close(token_statistics(model, batch).log_prob, dense_log_prob(model, batch))
    with model.disable_adapter():
        assert output_head(model).adapters == ()
        torch.testing.assert_close(token_statistics(model, batch).log_prob, dense_log_prob(model, batch))


def test_a_merged_adapter_is_in_the_weight():
    model, batch = with_lora_on_the_head(), pack(ROWS)
    before = token_statistics(model, batch).log_prob
    model.merge_adapter()
    assert output_head(model).adapters == ()
    torch.testing.assert_close(token_statistics(model, batch).log_prob, before)


def test_dropout_of_the_adapter_is_applied():
    adapter = LowRank(torch.ones(1, 4), torch.ones(2, 1), 0.5, nn.Dropout(1.0))
    assert adapter.down(torch.ones(3, 4)).tolist() == [[0.0]] * 3
    adapter.dropout.eval()
    assert adapter.down(torch.ones(3, 4, dtype=torch.bfloat16)).tolist() == [[2.0]] * 3
    assert adapter.down(torch.ones(3, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_reference_with_adapters_off_has_no_adapter_on_its_head():
    model = with_lora_on_the_head()
    objective = NPO(model, reference="adapter", retain="kl")
    rows = {role: ROWS[role] for role in ("forget", "retain")}
    losses = objective.losses(pack(rows))
    with torch.no_grad(), model.disable_adapter():
        reference = {role: dense_log_prob(model, pack({role: rows[role]})) for role in rows}
        assert objective.reference_model().head().adapters == ()
    batch = pack({"forget": rows["forget"]})
    ours = dense_log_prob(model, batch)
    ratio = batch.row_sums(ours - reference["forget"], "forget")
    expected = -2 / 0.1 * nn.functional.logsigmoid(-0.1 * ratio).mean()
    torch.testing.assert_close(losses["forget"], expected)
    assert losses["retain"] > 0


@pytest.mark.parametrize(
    ("options", "message"), [({"use_dora": True}, "Dora"), ({"lora_bias": True}, "got lora_bias in 'default'")]
)
def test_other_adapters_of_the_head_are_refused(options, message):
    config = LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM", **options)
    base = tiny()
    if "lora_bias" in options:
        base.lm_head = nn.Linear(base.lm_head.in_features, base.lm_head.out_features, bias=True).double()
    with pytest.raises(ValueError, match=f"adapters of the output head must be plain LoRA.*{message}"):
        output_head(get_peft_model(base, config))


def test_a_head_of_another_kind_is_refused():
    model = tiny()
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(ValueError, match="output head must be a linear layer, or LoRA on one, got Sequential"):
        output_head(model)


def test_a_reference_with_an_adapter_on_its_head_is_refused():
    objective = NPO(with_lora_on_the_head(), reference=with_lora_on_the_head(seed=4))
    with pytest.raises(ValueError, match="output head without adapters"):
        objective.reference_model()
