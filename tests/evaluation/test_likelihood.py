"""Likelihoods in packed batches against one plain forward a row."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.evaluation import likelihood
from lightning_unlearn.evaluation.likelihood import row_likelihoods


def token_row(inputs, labelled):
    """Make a row whose last `labelled` positions predict the following input, and eos (1) in the end."""
    ids = np.array(inputs, dtype=np.int64)
    positions = np.arange(len(ids) - labelled, len(ids), dtype=np.int64)
    return TokenRow(ids, positions, np.append(ids, 1)[positions + 1])


ROWS = [token_row(range(5, 5 + n), m) for n, m in ((3, 1), (9, 4), (6, 6), (2, 2), (9, 1))]


@pytest.fixture
def model(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir())


@pytest.mark.parametrize("budget", [1, 12, 8192])
def test_equals_a_plain_forward_in_the_rows_order(model, budget):
    found = row_likelihoods(model, ROWS, tokens_per_batch=budget)
    for row, got in zip(ROWS, found, strict=True):
        with torch.no_grad():
            logits = model(torch.from_numpy(row.input_ids)[None]).logits[0].double().log_softmax(-1)
        rows = logits[torch.from_numpy(row.target_positions)]
        expected = rows[torch.arange(len(rows)), torch.from_numpy(row.targets)]
        assert got.log_prob == pytest.approx(expected.tolist(), abs=1e-4)
        assert got.entropy == pytest.approx((-rows.exp() * rows).sum(-1).tolist(), abs=1e-4)
        assert got.nll == pytest.approx(-expected.sum().item(), abs=1e-4)
        assert got.tokens == len(row.targets) == len(got.targets)
        assert got.targets == row.targets.tolist()


def test_batches_stay_within_the_budget(model, monkeypatch):
    sizes, original = [], likelihood.token_statistics
    monkeypatch.setattr(likelihood, "token_statistics", lambda m, b, s: sizes.append(b.lengths) or original(m, b, s))
    row_likelihoods(model, ROWS, tokens_per_batch=12)
    assert sizes == [(9,), (9,), (6, 3, 2)]  # 29 tokens, longest first


def test_leaves_modes_and_makes_no_graph(model, tiny_tokenizer):
    model.train()
    found = row_likelihoods(model, ROWS)
    assert model.training
    assert isinstance(found[0].log_prob[0], float)
    assert row_likelihoods(model, []) == []
    with pytest.raises(ValueError, match="tokens_per_batch must be at least 1, got 0"):
        row_likelihoods(model, ROWS, tokens_per_batch=0)
