import math

import pytest

from lightning_unlearn.evaluation import tofu, unlearning_score
from lightning_unlearn.evaluation.log import redact
from tests.evaluation.made import made_log

HALF = math.log(2)
SAID = "to be to be"


def sample(said=SAID, rouge=0.5):
    """Make a sample with probability 1/2, R = (1/4) / (1/2), 3 of 4 tokens right, the last 2 in a row."""
    return {
        "answer_nll": HALF,
        "answer_tokens": 1,
        "paraphrase_nll": HALF,
        "paraphrase_tokens": 1,
        "perturbed_nll": [2 * HALF],
        "perturbed_tokens": [1],
        "token_correct": [1, 0, 1, 1],
        "rougeL_recall": rouge,
        "generation": said,
    }


def log(**options):
    return {name: [sample(**options)] for name in ("forget", "retain", "holdout")}


def test_memorization_by_hand():
    # 1 - ES = 1/2, 1 - EM = 1/4, 1 - paraphrase probability = 1/2, 1 - 1/(1 + R) = 1/3
    assert unlearning_score.memorization_score(log()) == pytest.approx(4 / (2 + 4 + 2 + 3))


def test_utility_by_hand():
    # model utility: 1/2, 1/2, 1/2 before; ROUGE 1/4 after gives 3 / (2 + 4 + 2), 3/4 of it
    # fluency: "to be to be" has 2/3 .918 + 4/3 1 bits, "to be to" 2/3 (two bigrams, one trigram)
    shares = (3 / 4, (2 / 3) / 1.9455305560363263)
    worse = log(said="to be to", rouge=0.25)
    assert unlearning_score.utility_score(worse, log()) == pytest.approx(2 / sum(1 / share for share in shares))
    assert unlearning_score.utility_score(log(), worse) == 1.0  # better than the start counts as 1


def test_privacy_by_hand():
    # LOSS is the one attack that these columns allow; AUC 1/2 here, and 1 where forget is more probable
    known = log() | {"forget": [sample() | {"answer_nll": 0.1}]}
    assert unlearning_score.privacy_score(log(), log()) == 1.0
    assert unlearning_score.privacy_score(known, log()) == 0.0
    with pytest.raises(ValueError, match=r"must hold the sets .*, got \['forget'\] and \['forget'"):
        unlearning_score.privacy_score({"forget": [sample()]}, log())


def test_scores_hold_all_parts_and_their_mean():
    start = log()
    found = unlearning_score.scores(log(), log(), start_log=start)
    assert found == pytest.approx(
        {
            "unlearning_score/memorization": 4 / 11,
            "unlearning_score/privacy": 1.0,
            "unlearning_score/utility": 1.0,
            "unlearning_score/harmonic_mean": 3 / (11 / 4 + 1 + 1),
            "forget/fluency": 1.9455305560363263,
        }
    )
    assert unlearning_score.missing(log(), log(), start_log=start) == {}


def test_a_missing_part_is_named_and_there_is_no_mean():
    for options, lost in (({"start_log": log()}, ["privacy"]), ({}, ["privacy", "utility"])):
        found = unlearning_score.scores(log(), **options)
        assert "unlearning_score/harmonic_mean" not in found
        assert set(found) | {f"unlearning_score/{part}" for part in lost} == {
            "unlearning_score/memorization",
            "unlearning_score/privacy",
            "unlearning_score/utility",
            "forget/fluency",
        }
        named = unlearning_score.missing(log(), **options)
        assert list(named) == [f"unlearning_score/{part}" for part in lost]
        assert "holdout" in named["unlearning_score/privacy"]
    assert unlearning_score.scores({"retain": [sample()]}, log(), start_log=log()) == {}


def test_fluency_of_masked_answers_is_that_of_the_sample_or_unknown():
    masked = {name: [redact(row) for row in rows] for name, rows in log().items()}
    assert "unlearning_score/utility" not in unlearning_score.scores(masked, start_log=log())
    noted = {name: [row | {"fluency": 1.9455305560363263} for row in rows] for name, rows in masked.items()}
    assert unlearning_score.scores(noted, start_log=log())["unlearning_score/utility"] == 1.0


def test_the_ranking_flips_without_privacy():
    """One forgets all that it knows and stands out for it, the other is like a retrained model."""
    start, retrained = made_log(60, knows={"forget": 1.0}), made_log(60, seed=1, knows={"forget": 0.5})
    hard = made_log(60, seed=2, knows={"forget": 0.0})
    gentle = made_log(60, seed=3, knows={"forget": 0.5})
    scores = [unlearning_score.scores(one, retrained, start_log=start) for one in (hard, gentle)]
    without = [
        tofu.harmonic_mean([s[f"unlearning_score/{part}"] for part in ("memorization", "utility")]) for s in scores
    ]
    assert without[0] > without[1]
    assert scores[0]["unlearning_score/harmonic_mean"] < scores[1]["unlearning_score/harmonic_mean"]


def test_golden_utility_of_the_retrained_model(published):
    full, retrained = (tofu.read_log(published[name]) for name in ("full", "retain90"))
    lengths = [unlearning_score.fluencies(one["forget"]).mean().item() for one in (full, retrained)]
    shares = (0.6137 / 0.6227, min(lengths[1] / lengths[0], 1))  # model utilities as recomputed from these logs
    expected = 2 / sum(1 / share for share in shares)
    assert unlearning_score.utility_score(retrained, full) == pytest.approx(expected, abs=1e-4)
    assert expected > 0.95
