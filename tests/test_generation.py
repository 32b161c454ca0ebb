"""Generation against a plain greedy loop, and what it must leave as it was."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_unlearn.generation import _Draws, generate, left_pad

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16]]


@pytest.fixture
def model(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir())


def greedy(model, prompt, steps, stops=()):
    """Definition: no cache, no padding, no batch."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if best in stops:
                break
            ids.append(best)
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_equals_a_greedy_loop_in_the_prompts_order(model, tiny_tokenizer, batch_size):
    outputs = generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=7, batch_size=batch_size)
    assert outputs == [greedy(model.eval(), prompt, 7, (1,)) for prompt in PROMPTS]


def test_stops_at_eos_where_pad_is_eos(model, tiny_tokenizer):
    free = generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=7)
    stop = free[0][2]  # a token that the model does generate becomes eos and pad
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(stop)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == stop
    outputs = generate(model, tokenizer, PROMPTS, max_new_tokens=7)
    assert outputs == [greedy(model.eval(), prompt, 7, (stop, 1)) for prompt in PROMPTS]
    assert len(outputs[0]) <= 2
    # eos inside a prompt is a token like any other
    assert generate(model, tokenizer, [[5, stop, 6]], max_new_tokens=3)[0] == greedy(model, [5, stop, 6], 3, (stop, 1))


def test_stops_at_the_checkpoints_own_end_tokens(model, tiny_tokenizer):
    free = generate(model, tiny_tokenizer, PROMPTS[:1], max_new_tokens=7)[0]
    model.generation_config.eos_token_id = [1, free[3]]
    assert generate(model, tiny_tokenizer, PROMPTS[:1], max_new_tokens=7)[0] == free[: free.index(free[3])]


def test_stops_at_the_callers_end_tokens(model, tiny_tokenizer):
    free = generate(model, tiny_tokenizer, PROMPTS[:1], max_new_tokens=7)[0]
    stopped = generate(model, tiny_tokenizer, PROMPTS[:1], max_new_tokens=7, stop_ids=[free[2]])[0]
    assert stopped == free[: free.index(free[2])]


def test_overrules_the_checkpoints_sampling_and_a_disabled_cache(model, tiny_tokenizer):
    expected = generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=7)
    model.generation_config.update(do_sample=True, temperature=2.0, top_p=0.5, repetition_penalty=3.0, num_beams=2)
    model.config.use_cache = False
    assert generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=7) == expected


def test_works_through_peft_and_restores_modes_and_randomness(model, tiny_tokenizer):
    from peft import LoraConfig, get_peft_model

    expected = generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=5)
    wrapped = get_peft_model(model, LoraConfig(r=2, lora_dropout=0.5, task_type="CAUSAL_LM"))
    wrapped.train()
    wrapped.base_model.model.model.layers[0].eval()
    modes = {name: module.training for name, module in wrapped.named_modules()}
    before = torch.get_rng_state()
    assert generate(wrapped, tiny_tokenizer, PROMPTS, max_new_tokens=5) == expected  # a fresh adapter changes nothing
    generate(wrapped, tiny_tokenizer, PROMPTS, max_new_tokens=5, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: module.training for name, module in wrapped.named_modules()} == modes


def test_sampling_is_seeded_and_differs_from_greedy(model, tiny_tokenizer):
    def draw(seed):
        return generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=7, temperature=1.0, seed=seed)

    torch.manual_seed(1)
    first = draw(0)
    torch.manual_seed(2)
    assert draw(0) == first
    assert draw(1) != first
    assert generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=7) != first


def test_draws_follow_from_the_prompt_and_not_from_the_batch(model, tiny_tokenizer):
    options = {"max_new_tokens": 7, "temperature": 1.0, "seed": 3}
    batched = generate(model.double(), tiny_tokenizer, PROMPTS, **options)
    assert batched == [generate(model, tiny_tokenizer, [prompt], **options)[0] for prompt in PROMPTS]
    assert batched == generate(model, tiny_tokenizer, PROMPTS[::-1], batch_size=3, **options)[::-1]


def test_draws_come_as_often_as_the_model_says():
    logits = torch.tensor([[0.0, 1.0, -1.0, 0.5]])
    draws = [_Draws.of([[5, 6]], 0.5, seed, torch.device("cpu"))(None, logits).argmax() for seed in range(4000)]
    share = torch.stack(draws).bincount(minlength=4) / 4000
    assert share.tolist() == pytest.approx((logits[0] / 0.5).softmax(-1).tolist(), abs=0.03)  # 4 standard deviations


def test_shows_progress_only_when_asked(model, tiny_tokenizer, capsys):
    generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=2)
    assert capsys.readouterr().err == ""
    generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=2, progress=True)
    assert "4/4" in capsys.readouterr().err


def test_no_prompts_no_outputs(model, tiny_tokenizer):
    assert generate(model, tiny_tokenizer, []) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
        ({"prompts": [[1], []]}, r"prompts must hold at least one token each, got none in rows \[1\]"),
        ({"model": torch.nn.Linear(1, 1)}, "model must have a generate method .*, got Linear"),
    ],
)
def test_errors_name_argument_and_value(model, tiny_tokenizer, options, message):
    arguments = {"model": model, "tokenizer": tiny_tokenizer, "prompts": PROMPTS, **options}
    with pytest.raises(ValueError, match=message):
        generate(**arguments)


def test_left_pad():
    ids, mask = left_pad([[5], [6, 7, 8]], 2)
    assert ids.tolist() == [[2, 2, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_transformers_has_nothing_to_warn_of(model, tiny_tokenizer, caplog):
    from transformers.utils import logging

    logging.enable_propagation()
    try:
        model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, top_k=20)
        generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=2)
        generate(model, tiny_tokenizer, PROMPTS, max_new_tokens=2, temperature=0.7)
    finally:
        logging.disable_propagation()
    assert not caplog.records
