from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lightning_unlearn import attention
from tests.dense import tiny


def heads(tokens: int, count: int, seed: int) -> torch.Tensor:
    return torch.randn(1, count, tokens, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense_attention(q, k, v, segment, scaling=None):
    """Softmax over the tokens of the same segment up to the query itself, written out."""
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    scores = q @ k.transpose(2, 3) * (scaling or 8**-0.5)
    seen = (segment[:, None] == segment[None, :]) & torch.ones(len(segment), len(segment)).tril().bool()
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize(("key_heads", "scaling"), [(4, None), (2, None), (1, 0.7)])
def test_each_segment_attends_to_itself_alone(key_heads, scaling):
    q, k, v = heads(9, 4, 0), heads(9, key_heads, 1), heads(9, key_heads, 2)
    ours, weights = attention.packed_attention(
        torch.nn.Module(), q, k, v, None, segment_lengths=(3, 1, 5), scaling=scaling
    )
    theirs = dense_attention(q, k, v, torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2]), scaling)
    torch.testing.assert_close(ours, theirs)
    assert weights is None


def test_without_segments_it_is_scaled_dot_product_attention():
    q, k, v = heads(6, 4, 0), heads(6, 2, 1), heads(6, 2, 2)
    module = SimpleNamespace(num_key_value_groups=2, is_causal=True, training=False)
    ours, _ = attention.packed_attention(module, q, k, v, None, is_causal=True)
    torch.testing.assert_close(
        ours, F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
    )


@pytest.mark.parametrize("option", ["s_aux", "position_bias"])
def test_options_that_would_change_the_result_are_refused(option):
    q = heads(2, 1, 0)
    with pytest.raises(ValueError, match=f"does not support {option}"):
        attention.packed_attention(torch.nn.Module(), q, q, q, None, segment_lengths=(2,), **{option: 30.0})


def test_dropout_drops_attention_weights():
    q, k, v = heads(4, 1, 0), heads(4, 1, 1), torch.ones(1, 1, 4, 8, dtype=torch.float64)
    torch.manual_seed(0)
    ours, _ = attention.packed_attention(torch.nn.Module(), q, k, v, None, segment_lengths=(4,), dropout=0.5)
    assert not torch.allclose(ours, torch.ones_like(ours))  # each would be 1 if all weights were kept


def test_the_mask_is_left_out_only_within_its_context():
    model = tiny("llama")
    model.set_attn_implementation(attention.NAME)
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 1]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    usual = model(input_ids=ids, attention_mask=mask).logits
    with attention.no_dense_mask():
        pass
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, usual)
    with pytest.raises(RuntimeError, match="interrupted"), attention.no_dense_mask():
        raise RuntimeError("interrupted")
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, usual)


def test_generation_with_our_attention_is_the_usual_generation():
    model = tiny("llama", dtype=torch.float32)
    ids, mask = torch.tensor([[1, 1, 5, 6], [7, 8, 9, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    usual = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    model.set_attn_implementation(attention.NAME)
    assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False), usual)


def test_generation_with_a_soft_cap_is_the_usual_generation():
    model = tiny("gemma2", dtype=torch.float32, attn_logit_softcapping=2.0, sliding_window=4)
    ids, mask = torch.tensor([[1, 1, 5, 6], [7, 8, 9, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    usual = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    plain = model(input_ids=ids[1:]).logits
    model.set_attn_implementation(attention.NAME)
    assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False), usual)
    torch.testing.assert_close(model(input_ids=ids[1:]).logits, plain)
