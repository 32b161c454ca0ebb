from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lightning_unlearn import attention, forward
from lightning_unlearn.data.packing import TokenRow, pack
from lightning_unlearn.data.padded import from_padded
from lightning_unlearn.data.prefixes import pack_groups
from lightning_unlearn.forward import evaluating, token_statistics
from lightning_unlearn.head import Head
from lightning_unlearn.varlen import Rules
from tests.dense import VOCABULARY, as_padded, assert_same_gradients, dense, gradients, make_rows, tiny

SMALL_HEADS = {"head_dim": 4}
PACKED = {
    "llama": {},
    "qwen2": {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": SMALL_HEADS,
    "phi3": {},
    "olmo2": {},
    "gpt_neox": {},
    "gpt2": {},
    "mistral": {"sliding_window": 4},  # a window shorter than a row
    "gemma2": {**SMALL_HEADS, "sliding_window": 4, "query_pre_attn_scalar": 4, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**SMALL_HEADS, "sliding_window": 4, "query_pre_attn_scalar": 4},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0},
}
PADDED = {
    "mamba": {"state_size": 4},  # carries a state from row to row
    "bloom": {},  # takes no positions
    "falcon": {},  # does not let its attention be chosen
}
CASES = [
    *((arch, options, True) for arch, options in PACKED.items()),
    *((arch, options, False) for arch, options in PADDED.items()),
]
ROWS = {"forget": make_rows([4, 1, 7], seed=1), "retain": make_rows([9, 2], seed=2)}


def alone(model: nn.Module, row: TokenRow) -> torch.Tensor:
    """log p of a row's targets, from the plain forward of that row."""
    logits = model(input_ids=torch.from_numpy(row.input_ids)[None], use_cache=False).logits[0]
    chosen = logits[torch.from_numpy(row.target_positions)].log_softmax(-1)
    return chosen.gather(1, torch.from_numpy(row.targets)[:, None]).squeeze(1)


@pytest.mark.parametrize(
    ("arch", "options", "packs"), CASES, ids=[f"{c[0]}-{'packed' if c[2] else 'padded'}" for c in CASES]
)
def test_every_row_is_as_if_it_were_alone(arch, options, packs):
    # The masks of gemma2 overflow in float64 and mamba computes in float32; elsewhere only rotary tables are float32.
    dtype = torch.float32 if arch in ("gemma2", "mamba") else torch.float64
    model, batch = tiny(arch, dtype=dtype, **options), pack(ROWS)
    plain = copy.deepcopy(model)
    ours = token_statistics(model, batch).log_prob
    assert forward._use_packing(model, batch) == packs
    theirs = torch.cat([alone(plain, row) for rows in ROWS.values() for row in rows])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 if dtype == torch.float64 else 2e-5)
    weights = torch.linspace(-1, 1, len(ours), dtype=ours.dtype)
    assert_same_gradients(
        gradients((weights * ours).sum(), model), gradients((weights * theirs).sum(), plain), tolerance=2e-5
    )


@pytest.mark.parametrize(
    ("arch", "options", "packs"), CASES, ids=[f"{c[0]}-{'shares' if c[2] else 'not'}" for c in CASES]
)
def test_rows_that_begin_alike_are_as_if_each_were_alone(arch, options, packs):
    model = tiny(arch, **options)
    plain, device = copy.deepcopy(model), torch.device("cpu")
    assert forward.shares_prefixes(model, 7, device) == packs
    if packs:
        beginning, rest = make_rows([7], seed=3)[0].input_ids[:5], ([3, 4, 5], [6], [3, 7, 8, 9])
        group = [TokenRow(ids, np.arange(3, len(ids) - 1), ids[4:]) for ids in (np.append(beginning, r) for r in rest)]
        with torch.no_grad():
            ours = token_statistics(model, pack_groups([group, make_rows([4], seed=4)])).log_prob
            theirs = torch.cat([alone(plain, row) for row in (*group, *make_rows([4], seed=4))])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_a_model_that_does_not_share_beginnings_is_found_by_a_try(monkeypatch):
    model, device = tiny("llama"), torch.device("cpu")
    attend = attention.varlen_attention
    monkeypatch.setattr(
        attention, "varlen_attention", lambda q, k, v, lengths, rules, parents: attend(q, k, v, lengths, rules)
    )
    assert not forward.shares_prefixes(model, 7, device)


@pytest.mark.parametrize(("longest", "tried"), [(8, False), (9, True)])
@pytest.mark.parametrize("agrees", [True, False])
def test_rows_beyond_a_sliding_window_are_packed_where_a_try_agrees(monkeypatch, longest, tried, agrees):
    model = tiny("mistral", sliding_window=8)
    if not agrees:  # a model that keeps its window in the mask alone
        monkeypatch.setattr(attention, "Rules", lambda scaling, dropout, window, softcap: Rules(scaling, dropout))
    ids = np.arange(3, 3 + longest)
    row = TokenRow(ids, np.arange(longest - 1), ids[1:])
    batch = pack({"forget": [row, row]})
    ours = token_statistics(model, batch).log_prob
    assert forward._use_packing(model, batch) == (agrees or not tried)
    assert (model in forward._packs_beyond_window) == tried
    torch.testing.assert_close(ours, torch.cat([alone(model, row)] * 2), rtol=0, atol=2e-6)


@pytest.mark.parametrize("left", [False, True])
def test_padded_and_packed_batches_give_equal_numbers(left):
    model = tiny()
    ours = token_statistics(model, pack(ROWS)).log_prob
    again = token_statistics(model, from_padded(as_padded(ROWS, left=left))).log_prob
    torch.testing.assert_close(again, ours)
    theirs = torch.cat([dense(model, role).lp for role in as_padded(ROWS).values()])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_labels_deep_in_padding_and_masked_tokens_see_what_the_plain_forward_sees():
    model = tiny()
    role = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 1, 1], [9, 10, 11, 12, 13, 14]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1]]),
        "labels": torch.tensor([[-100, -100, 7, 8, 1, 1], [-100, -100, -100, 12, 13, 14]]),
    }
    ours = token_statistics(model, from_padded({"forget": role})).log_prob
    torch.testing.assert_close(ours, dense(model, role).lp, rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_another_attention_chosen_later_is_still_right(implementation):
    """Packed rows under the usual attention see each other, without a word, where masks or caches get in the way."""
    model, batch = tiny(), pack(ROWS)
    first = token_statistics(model, batch).log_prob
    model.set_attn_implementation(implementation)
    torch.testing.assert_close(token_statistics(model, batch).log_prob, first, rtol=0, atol=1e-6)


def test_a_model_that_asks_for_eager_attention_keeps_it():
    model = tiny(attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    ours = token_statistics(model, pack(ROWS)).log_prob
    assert model.config._attn_implementation == "eager"
    theirs = torch.cat([dense(model, role).lp for role in as_padded(ROWS).values()])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_cache_in_the_config_does_not_mix_rows(use_cache):
    """With use_cache=True (the default of every model) transformers no longer sees that rows are packed."""
    model = tiny()
    model.config.use_cache = use_cache
    ours = token_statistics(model.train(), pack(ROWS)).log_prob
    theirs = torch.cat([dense(model, role).lp for role in as_padded(ROWS).values()])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_gradient_checkpointing_changes_nothing():
    model, batch = tiny().train(), pack(ROWS)
    usual = gradients(token_statistics(model, batch).log_prob.sum(), model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same_gradients(gradients(token_statistics(model, batch).log_prob.sum(), model), usual, tolerance=1e-6)


def test_a_role_without_rows_or_labels_takes_part():
    unlabelled = TokenRow(np.array([5, 6]), np.array([], np.int64), np.array([], np.int64))
    model = tiny()
    assert token_statistics(model, pack({**ROWS, "retain": []})).log_prob.shape == (15,)
    nothing = token_statistics(model, pack({"forget": [unlabelled]})).log_prob
    assert nothing.shape == (0,)
    nothing.sum().backward()  # a rank without labels must still take part in backward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_are_float32_in_any_precision_of_the_weights(dtype):
    model = tiny(dtype=dtype)
    ours = token_statistics(model, pack(ROWS), ("log_prob", "entropy"))
    assert ours.log_prob.dtype == ours.entropy.dtype == torch.float32
    assert ours.uniform_kl is None
    theirs = token_statistics(tiny(), pack(ROWS)).log_prob
    tolerance = 1e-5 if dtype == torch.float32 else 0.3
    torch.testing.assert_close(ours.log_prob.double(), theirs, rtol=tolerance, atol=tolerance)


class Bigram(nn.Module):
    """A custom module: the next token depends on the current and the previous one."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, 6, dtype=torch.float64, generator=generator))
        self.weight = nn.Parameter(torch.randn(VOCABULARY, 6, dtype=torch.float64, generator=generator))

    def hidden_states(self, input_ids, attention_mask):
        embedded = self.embedding[input_ids]
        return embedded + nn.functional.pad(embedded, (0, 0, 1, 0))[:, :-1]

    def output_head(self):
        return Head(self.weight, softcap=5.0)


def test_a_custom_module_takes_part_through_two_methods():
    model, row = Bigram(), TokenRow(np.array([5, 6]), np.array([0, 1]), np.array([6, 1]))
    ours = token_statistics(model, pack({"forget": [row, row]})).log_prob
    hidden = torch.stack([model.embedding[5], model.embedding[6] + model.embedding[5]])
    z = 5.0 * torch.tanh(hidden @ model.weight.T / 5.0)
    expected = z.log_softmax(-1)[torch.arange(2), torch.tensor([6, 1])]
    torch.testing.assert_close(ours, torch.cat([expected, expected]))
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert_same_gradients(
        gradients((weights * ours[:2]).sum(), model), gradients((weights * expected).sum(), model), tolerance=1e-12
    )


def test_a_head_that_does_not_match_the_logits_is_refused():
    class Halved(type(tiny())):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits / 2
            return output

    model = Halved(tiny().config).double()
    with pytest.raises(ValueError, match=r"logits of Halved are not its output head .* hidden_states\(\)"):
        token_statistics(model, pack(ROWS))


def test_a_model_whose_trunk_cannot_be_told_is_refused():
    class Hidden(type(tiny())):
        base_model_prefix = "trunk"  # names no attribute

    with pytest.raises(ValueError, match=r"trunk of Hidden .* hidden_states\(\)"):
        token_statistics(Hidden(tiny().config).double(), pack(ROWS))


def test_evaluating_gives_every_submodule_its_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    model.train()
    model[1][0].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, True, False, True]


def test_a_trunk_that_takes_no_further_arguments_gets_padded_rows():
    class Strict(type(tiny().model)):
        def forward(
            self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
            use_cache=None,
        ):  # fmt: skip
            return super().forward(input_ids, attention_mask, position_ids, use_cache=use_cache)

    model, batch = tiny(), pack(ROWS)
    expected = token_statistics(model, batch).log_prob
    strict = tiny()
    strict.model.__class__ = Strict
    torch.testing.assert_close(token_statistics(strict, batch).log_prob, expected, rtol=0, atol=1e-6)
    assert not forward._use_packing(strict, batch)
    assert strict.config._attn_implementation == "sdpa"


def test_a_copy_of_a_model_that_packs_also_packs():
    model, batch = tiny(), pack(ROWS)
    ours = token_statistics(model, batch).log_prob
    other = copy.deepcopy(model)
    assert torch.equal(token_statistics(other, batch).log_prob, ours)
    assert forward._use_packing(other, batch)


def test_trying_a_model_for_the_first_time_leaves_it_as_it_was():
    model = tiny().train()
    model.model.layers[0].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with torch.no_grad():
        token_statistics(model, pack(ROWS))
    assert torch.rand(1) == expected  # no random number was drawn
    assert model.training
    assert not model.model.layers[0].training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_our_attention_is_not_written_into_saved_configs(tmp_path):
    model = tiny()
    token_statistics(model, pack(ROWS))
    model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()


def test_a_model_whose_numbers_overflow_is_run():
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[0] = torch.inf
    assert not token_statistics(model, pack(ROWS)).log_prob.isfinite().any()
