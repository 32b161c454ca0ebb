"""Likelihoods in packed batches against one plain forward a row."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.evaluation import likelihood
from lightning_unlearn.evaluation.likelihood import RowLikelihood, group_likelihoods, row_likelihoods


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
        variance = (rows.exp() * rows.square()).sum(-1) - (rows.exp() * rows).sum(-1).square()
        assert got.log_prob_variance == pytest.approx(variance.tolist(), abs=1e-4)
        assert got.correct == (rows.argmax(-1).numpy() == row.targets).astype(int).tolist()
        assert got.nll == pytest.approx(-expected.sum().item(), abs=1e-4)
        assert got.tokens == len(row.targets) == len(got.targets)
        assert got.targets == row.targets.tolist()


def test_batches_stay_within_the_budget(model, monkeypatch):
    sizes, original = [], likelihood.hidden_states
    monkeypatch.setattr(likelihood, "hidden_states", lambda m, b: sizes.append(b.lengths) or original(m, b))
    row_likelihoods(model, ROWS, tokens_per_batch=12)
    assert sizes == [(9,), (9,), (6, 3, 2)]  # 29 tokens, longest first
    sizes.clear()
    group_likelihoods(model, [[ROWS[2]], [ROWS[1], ROWS[4]], [ROWS[0]]], tokens_per_batch=12)
    assert sizes == [(8, 1, 1), (6, 3)]  # 8 of 9 tokens are computed once


@pytest.mark.parametrize("shares", [True, False])
def test_groups_equal_their_rows_alone(model, monkeypatch, shares):
    if not shares:
        monkeypatch.setattr(likelihood, "shares_prefixes", lambda *arguments: False)
    question = list(range(5, 11))
    groups = [
        [token_row([*question, *answer], len(answer) + 1) for answer in ([20, 21], [20, 22, 23], [24])],
        [token_row([7, 8, 9], 2)],
        [token_row([*question[:2], 30], 1), token_row([*question[:2], 31], 1)],  # too little to share
        [token_row(question, 3), token_row(question, 3)],  # a whole row alike
    ]
    found = group_likelihoods(model, groups, tokens_per_batch=30)
    for group, got in zip(groups, found, strict=True):
        for at, (row, ours) in enumerate(zip(group, got, strict=True)):
            alone = row_likelihoods(model, [row])[0]
            assert ours.targets == alone.targets
            assert ours.log_prob == pytest.approx(alone.log_prob, abs=1e-5)
            kept = alone if at == 0 else RowLikelihood([], [], [], [], [])
            for field in ("entropy", "log_prob_variance", "correct"):
                assert getattr(ours, field) == pytest.approx(getattr(kept, field), abs=1e-5)


def test_leaves_modes_and_makes_no_graph(model, tiny_tokenizer):
    model.train()
    found = row_likelihoods(model, ROWS)
    assert model.training
    assert isinstance(found[0].log_prob[0], float)
    assert row_likelihoods(model, []) == []
    with pytest.raises(ValueError, match="tokens_per_batch must be at least 1, got 0"):
        row_likelihoods(model, ROWS, tokens_per_batch=0)
    in_short = replace(found[0], entropy=[], log_prob_variance=[], correct=[])
    assert row_likelihoods(model, ROWS, in_detail=False)[0].log_prob == pytest.approx(in_short.log_prob, abs=1e-5)
    assert replace(row_likelihoods(model, ROWS, in_detail=False)[0], log_prob=in_short.log_prob) == in_short
    with pytest.raises(ValueError, match=r"groups must hold at least one row each, got none in \[1\]"):
        group_likelihoods(model, [ROWS, []])
