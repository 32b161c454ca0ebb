"""MUSE's numbers by hand, and from a model, killed and continued."""

import pytest
from transformers import AutoModelForCausalLM

from lightning_unlearn.data.muse import MUSE
from lightning_unlearn.evaluation import muse
from lightning_unlearn.evaluation.log import redact
from lightning_unlearn.evaluation.run import evaluate
from tests import published
from tests.evaluation.killed import OPTIONS, killed_and_continued
from tests.evaluation.test_run import assert_same


def rows(key, *values):
    return [{"index": i, key: value} for i, value in enumerate(values)]


def test_numbers_by_hand():
    log = {
        "forget_verbatim": [*rows("rougeL_f1", 0.5, 1.0), {"index": 2, "failed": "too long"}],
        "forget_knowledge": rows("rougeL_f1", 0.25),
        "retain_knowledge": rows("rougeL_f1", 1.0, 0.0),
        # Min-K reads the lowest 40 % of 5 tokens: means of -6 and -4, of -5 and -5; -5 and -6
        "forget": rows("token_log_prob", [-1.0, -6.0, -4.0, -1.0, -2.0], [-5.0, -5.0, 0.0, 0.0, 0.0]),
        "holdout": rows("token_log_prob", [-5.0, -5.0, -1.0, -1.0, -1.0], [-6.0, -6.0, -1.0, -1.0, -1.0]),
    }
    # both forget texts tie with the first of holdout and are above the second: AUC (1/2 + 1) x 2 / 4
    retrained = {name: log[name] for name in ("forget", "holdout")}
    retrained["forget"] = rows("token_log_prob", [-5.0] * 5, [-7.0] * 5)  # AUC (1/2 + 1 + 0 + 0) / 4
    assert muse.scores(log, retrained) == pytest.approx(
        {
            "muse/verbatim_memorization": 0.75,
            "muse/knowledge_memorization": 0.25,
            "muse/utility": 0.5,
            "muse/min_k_auc": 0.75,
            "muse/priv_leak": 100 * (0.25 - 0.625) / 0.625,  # of 1 - AUC, as MUSE has it
        }
    )
    assert muse.scores({"forget": log["forget"]}) == {}
    assert muse.scores({name: log[name] for name in ("forget", "holdout")}) == {"muse/min_k_auc": 0.75}
    always = {**retrained, "forget": rows("token_log_prob", [0.0] * 5)}
    assert "muse/priv_leak" not in muse.scores(log, always)  # undefined where it always tells them


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_tokenizer):
    data = MUSE(data=published.muse(tmp_path_factory.mktemp("muse")), tokenizer=tiny_tokenizer)
    data.setup("test")
    return data


def test_an_evaluation_that_was_killed_goes_on_to_the_same_numbers(data, tiny_model_dir, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir(max_position_embeddings=2048))
    whole = evaluate(model, data.encoder, data.evaluation_sets(), set_options=data.set_options(), **OPTIONS)
    again, made = killed_and_continued(model, data, tmp_path / "samples.jsonl", monkeypatch, after=2, batch_size=2)
    assert_same(again, whole)
    assert made == [(2, 32), (2, 32), (1, 32), (2, 128)]  # rows that were finished are not asked again
    assert "generation" not in whole["holdout"][0]
    retrained = {**again, "forget": again["holdout"]}  # cannot be told: AUC 1/2
    found = muse.scores(again, retrained)
    assert found.keys() == {
        *("muse/verbatim_memorization", "muse/knowledge_memorization", "muse/utility"),
        *("muse/min_k_auc", "muse/priv_leak"),
    }
    assert found["muse/priv_leak"] == pytest.approx(100 * (1 - 2 * found["muse/min_k_auc"]))
    assert muse.scores({name: [redact(row) for row in samples] for name, samples in again.items()}, retrained) == found
