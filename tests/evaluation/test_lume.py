"""LUME's numbers by hand, and from a model, killed and continued."""

import pytest
from transformers import AutoModelForCausalLM

from lightning_unlearn.data.lume import LUME
from lightning_unlearn.evaluation import lume
from lightning_unlearn.evaluation.run import evaluate
from tests import published
from tests.evaluation.killed import OPTIONS, killed_and_continued
from tests.evaluation.test_run import assert_same


def rows(key, *values):
    return [{"index": i, key: value} for i, value in enumerate(values)]


def test_numbers_by_hand():
    log = {
        "forget_task1_completion": rows("rougeL_recall", 0.1, 0.3),
        "forget_task1_knowledge": [*rows("exact_match", False, True, False, False), {"index": 4, "failed": "too long"}],
        "retain_task1_completion": rows("rougeL_recall", 1.0),
        "retain_task1_knowledge": rows("exact_match", True, False, False, False),
        "forget": [{"answer_nll": 2.0, "answer_tokens": 2}, {"answer_nll": 9.0, "answer_tokens": 3}],
        "holdout": [{"answer_nll": 4.0, "answer_tokens": 2}],
    }
    # 1 - 0.2, 1 - 0.25, 1, 0.25: 4 / (5/4 + 4/3 + 1 + 4) = 48 / 91; of losses 1 and 3 one is below 2: AUC 1/2
    assert lume.scores(log) == pytest.approx(
        {
            "lume/forget_task1_completion": 0.2,
            "lume/forget_task1_knowledge": 0.25,
            "lume/retain_task1_completion": 1.0,
            "lume/retain_task1_knowledge": 0.25,
            "lume/task_aggregate": 48 / 91,
            "lume/mia_auc": 0.5,
            "lume/mia_score": 1.0,
        }
    )
    members = {"forget": log["forget"][:1], "holdout": log["holdout"]}
    assert lume.scores(members) == {"lume/mia_auc": 1.0, "lume/mia_score": 0.0}
    assert "lume/task_aggregate" not in lume.scores({"forget_task1_completion": log["forget_task1_completion"]})
    nothing = {**log, "retain_task1_knowledge": rows("exact_match", False)}
    assert lume.scores(nothing)["lume/task_aggregate"] == 0.0
    assert lume.final_score(4 / 9, 1.0, 0.5) == pytest.approx(35 / 54)


def test_an_evaluation_that_was_killed_goes_on_to_the_same_numbers(
    tiny_tokenizer, tiny_model_dir, tmp_path, monkeypatch
):
    folder = published.lume(tmp_path / "lume")
    data = LUME(data=folder, membership=folder / "mia", tokenizer=tiny_tokenizer)
    data.setup("test")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir(max_position_embeddings=512))
    model.generation_config.eos_token_id = list(range(0, 400, 7))  # answers end before their 256 tokens
    options = {"set_options": data.set_options(), "max_rows": 1}
    whole = evaluate(model, data.encoder, data.evaluation_sets(), **options, **OPTIONS)
    output = tmp_path / "samples.jsonl"
    again, made = killed_and_continued(model, data, output, monkeypatch, after=1, batch_size=4, max_rows=1)
    assert_same(again, whole)
    assert made == [(4, 256)] * 3  # 12 sets of a row each, asked once
    found = lume.scores(again)
    assert {f"lume/{name}" for name in data.evaluation_sets() if name not in ("forget", "holdout")} <= found.keys()
    assert {"lume/task_aggregate", "lume/mia_auc", "lume/mia_score"} <= found.keys()
