from __future__ import annotations

import pytest

from lightning_unlearn.attacks.exam import Exam
from lightning_unlearn.data.unlearning_records import UnlearningRecords
from lightning_unlearn.evaluation.likelihood import row_likelihoods
from lightning_unlearn.evaluation.run import select_rows
from lightning_unlearn.metrics.probability import answer_probability
from lightning_unlearn.models import load_causal_lm
from tests.attacks.exams import FORGET, RETAIN, exam, record, unchanged


def test_rows_are_spread_and_limited(tiny_model_dir):
    found = exam(tiny_model_dir(), max_rows=2)
    assert found.forget == [FORGET[i] for i in select_rows(6, 2)]
    assert len(found.rows("retain")) == 2
    with pytest.raises(ValueError, match="evaluation set 'holdout', got sets"):
        found.rows("holdout")


def test_scores_are_means_over_rows(tiny_model_dir):
    import torch

    asked, model = exam(tiny_model_dir(), batch_size=4), load_causal_lm(tiny_model_dir()).train()
    with unchanged(model):
        found = asked.scores(model, FORGET)
    scored = row_likelihoods(model, [asked.encoder.row(r) for r in FORGET])
    nll, tokens = (torch.tensor([getattr(row, name) for row in scored]) for name in ("nll", "tokens"))
    assert found["forget/probability"] == pytest.approx(answer_probability(nll, tokens).mean().item(), rel=1e-5)
    values = answer_probability(nll, tokens)
    assert found["forget/probability_error"] == pytest.approx(values.std().item() / 6**0.5, rel=1e-4)
    keys = {"forget/probability", "forget/rougeL_recall"}
    assert set(found) == keys | {f"{key}_error" for key in keys}


def test_digest_follows_rows_and_limits(tiny_model_dir):
    folder = tiny_model_dir()
    plain = exam(folder).digest
    assert exam(folder).digest == plain
    assert exam(folder, max_new_tokens=5).digest != plain
    assert exam(folder, forget=[*FORGET[:-1], record("F", "Riga")]).digest != plain
    other_wrong = [*RETAIN[:-1], record("Z", "Quito", perturbed_answers=("Rome.",))]
    assert exam(folder, retain=other_wrong).digest != plain


@pytest.mark.parametrize("name", ["max_rows", "max_new_tokens", "batch_size", "tokens_per_batch"])
def test_limits_out_of_range(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Exam(UnlearningRecords(forget=FORGET, tokenizer="unused"), **{name: 0})
