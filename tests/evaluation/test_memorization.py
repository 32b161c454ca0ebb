import json
import math

import pytest

from lightning_unlearn.evaluation import memorization, tofu


def sample(correct, paraphrase=0.5, entropy=(1.0, 3.0)):
    """Make a sample whose paraphrase, of two tokens, has the given probability a token."""
    return {
        "paraphrase_nll": -2 * math.log(paraphrase),
        "paraphrase_tokens": 2,
        "token_correct": correct,
        "token_predictive_entropy": list(entropy),
    }


def test_scores_by_hand():
    log = {"forget": [sample([1, 0, 1, 1]), sample([0, 0], 0.25, (0.0,))], "retain": [sample([1, 1])]}
    assert memorization.scores(log) == pytest.approx(
        {
            "forget/exact_memorization": (3 / 4 + 0) / 2,
            "forget/extraction_strength": (1 / 2 + 0) / 2,
            "forget/paraphrase_probability": (1 / 2 + 1 / 4) / 2,
            "forget/predictive_entropy": (2 + 0) / 2,
            "retain/exact_memorization": 1.0,
            "retain/extraction_strength": 1.0,
            "retain/paraphrase_probability": 1 / 2,
            "retain/predictive_entropy": 2.0,
        }
    )


def test_a_log_without_the_columns_gives_what_it_can():
    bare = {key: value for key, value in sample([1]).items() if key.startswith("paraphrase")}
    assert memorization.scores({"forget": [bare], "empty": []}) == pytest.approx({"forget/paraphrase_probability": 0.5})


def test_golden_paraphrase_probability(published):
    content = json.loads(published["full"].read_text())
    found = memorization.scores(tofu.read_log(published["full"]))
    for file, name in tofu.PUBLISHED_SETS.items():
        nll = content[file]["avg_paraphrased_loss"].values()
        theirs = sum(math.exp(-value) for value in nll) / len(nll)
        assert found[f"{name}/paraphrase_probability"] == pytest.approx(theirs, rel=1e-5)
