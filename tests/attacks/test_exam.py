from __future__ import annotations

from dataclasses import replace

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
    assert list(found.rows("retain")) == select_rows(6, 2)
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


def test_rows_that_cannot_be_asked_are_named(tiny_model_dir):
    asked, model = exam(tiny_model_dir(), max_rows=4), load_causal_lm(tiny_model_dir())
    numbers = select_rows(6, 4)
    long = record("A", "Bern", perturbed_answers=())
    long = replace(long, question="Where? " * 100)  # more than the 200 tokens of a row
    found = asked.scores(model, [asked.forget[0], "no such question", long, asked.forget[3]])
    (first, second) = found.pop("failed")
    assert first == {"set": "forget", "index": numbers[1], "why": "no such question"}
    assert (second["set"], second["index"]) == ("forget", numbers[2])
    assert "max_length=200 cuts off the whole answer" in second["why"]
    both = exam(tiny_model_dir(), forget=[asked.forget[0], asked.forget[3]])
    assert found == pytest.approx(both.scores(model, both.forget))
    assert asked.scores(model, ["why"] * 4) == {
        "failed": [{"set": "forget", "index": number, "why": "why"} for number in numbers]
    }
    with pytest.raises(ValueError, match="rows must be as many as the forget rows, 4, got 1"):
        asked.ask(model, FORGET[:1])


def test_draws_follow_the_seed(tiny_model_dir):
    asked, model = exam(tiny_model_dir(), max_new_tokens=8), load_causal_lm(tiny_model_dir())

    def said(**options) -> list[str]:
        return [sample["generation"] for sample in asked.ask(model, asked.forget, **options)]

    assert said(temperature=2.0, seed=1) == said(temperature=2.0, seed=1) != said(temperature=2.0, seed=2)
    assert said() == said(seed=1)


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
