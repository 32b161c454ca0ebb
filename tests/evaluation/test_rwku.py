"""RWKU's numbers by hand, and from a model, killed and continued."""

import pytest
from transformers import AutoModelForCausalLM

from lightning_unlearn.data.rwku import RWKU
from lightning_unlearn.data.set_options import SetOptions
from lightning_unlearn.evaluation import rwku
from lightning_unlearn.evaluation.run import evaluate
from tests import published
from tests.evaluation.killed import OPTIONS, killed_and_continued
from tests.evaluation.test_run import assert_same


def rows(key, *values):
    return [{"index": i, key: value} for i, value in enumerate(values)]


def test_numbers_by_hand():
    log = {
        "forget_fill_in": rows("rougeL_recall", 0.5, 1.0),
        "forget_question": [*rows("rougeL_recall", 0.25), {"index": 1, "failed": "too long"}],
        "forget_role_play": rows("rougeL_recall", 1.0),
        "forget_cross_lingual": rows("rougeL_recall", 0.0, 0.5, 0.5),
        "neighbor_fill_in": rows("rougeL_recall", 1.0),
        "neighbor_question": rows("rougeL_recall", 0.5),
        # LOSS: -6/3 and -4/4; Min-K of 20 %: the least token of 5, and of 1
        "forget": [
            {"index": 0, "answer_nll": 6.0, "answer_tokens": 3, "token_log_prob": [-3.0, -1.0, -1.0, -0.5, -0.5]},
            {"index": 1, "answer_nll": 4.0, "answer_tokens": 4, "token_log_prob": [-5.0]},
        ],
        "fluency": rows("generation", "to be to be"),
    }
    assert rwku.scores(log) == pytest.approx(
        {
            "rwku/forget_fill_in": 0.75,
            "rwku/forget_question": 0.25,
            "rwku/forget_role_play": 1.0,
            "rwku/forget_cross_lingual": 1 / 3,
            "rwku/forget_adversarial": 0.5,  # of four rows
            "rwku/forget_mean": 0.5,
            "rwku/neighbor_fill_in": 1.0,
            "rwku/neighbor_question": 0.5,
            "rwku/neighbor_mean": 0.75,
            "rwku/forget_loss": -1.5,
            "rwku/forget_min_k_0.2": -4.0,
            "rwku/fluency": 2 / 3 * 0.918296 + 4 / 3 * 1.0,  # H2 of ab, ba, ab; H3 of aba, bab
        }
    )
    few = rwku.scores({"forget_fill_in": log["forget_fill_in"]})
    assert few == {"rwku/forget_fill_in": 0.75}  # no mean of what is not there


def test_an_evaluation_that_was_killed_goes_on_to_the_same_numbers(
    tiny_tokenizer, tiny_model_dir, tmp_path, monkeypatch
):
    data = RWKU(subjects=["Ana Lindqvist"], data=published.rwku(tmp_path / "rwku"), tokenizer=tiny_tokenizer)
    data.setup("test")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir())
    options = {"set_options": {**data.set_options(), "fluency": SetOptions(max_new_tokens=16)}}
    whole = evaluate(model, data.encoder, data.evaluation_sets(), **options, **OPTIONS)
    output = tmp_path / "samples.jsonl"
    again, made = killed_and_continued(model, data, output, monkeypatch, after=1, batch_size=4, **options)
    assert_same(again, whole)
    assert sum(prompts for prompts, _ in made) == 2 + 1 + 9 + 2 + 1  # each row once; texts not at all
    assert {tokens for _, tokens in made} == {30, 16}
    found = rwku.scores(again)
    assert {f"rwku/forget_{kind.replace(' ', '_')}" for kind in published.KINDS} <= found.keys()
    assert {"rwku/forget_mean", "rwku/neighbor_mean", "rwku/forget_loss", "rwku/retain_loss"} <= found.keys()
    assert "\n" not in whole["forget_role_play"][0]["generation"]
