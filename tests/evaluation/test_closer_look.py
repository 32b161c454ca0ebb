"""The closer-look aggregates on logs small enough to compute by hand."""

import math

import pytest

from lightning_unlearn.evaluation import closer_look, tofu

HALF = math.log(2)


def sample(rouge=0.5, te=0.5, cs=0.5, es=True):
    """Make a sample with probability 1/2, R = (1/4) / (1/2) = 1/2, one token a text."""
    return {
        "answer_nll": HALF,
        "answer_tokens": 1,
        "paraphrase_nll": HALF,
        "paraphrase_tokens": 1,
        "perturbed_nll": [2 * HALF, 2 * HALF],
        "perturbed_tokens": [1, 1],
        "rouge1_recall": rouge,
        "rougeL_recall": rouge,
        "token_entropy": te,
        "cosine_similarity": cs,
        "entailment": es,
    }


def hand_log():
    return {name: [sample()] for name in ("forget", "retain", "real_authors", "world_facts")}


def test_forget_efficacy_by_hand():
    log = {"forget": [sample(rouge=0.2, te=0.9, cs=0.4, es=False), sample(rouge=0.4, te=0.1, cs=0.6, es=True)]}
    # ROUGE .3, probability .5, 1 - min(R, 1/R) = .5, CS .5, ES .5: mean .46; token entropy has no say
    assert closer_look.forget_efficacy(log) == pytest.approx(0.54)


def test_model_utility_by_hand():
    # of 18 numbers the 3 entailments are 1, all others 1/2
    assert closer_look.model_utility(hand_log()) == pytest.approx(18 / (15 * 2 + 3))
    # retain alone: ROUGE, probability, truth ratio, TE, CS are 1/2, ES is 1
    assert closer_look.model_utility({"retain": [sample()], "forget": [sample()]}) == pytest.approx(6 / 11)
    log = hand_log()
    log["retain"][0]["entailment"] = False
    assert closer_look.model_utility(log) == 0.0


def test_scores_keys_and_missing_parts():
    scores = closer_look.scores(hand_log())
    assert scores["forget/cosine_similarity"] == 0.5
    assert scores["retain/entailment"] == 1.0
    assert scores["world_facts/token_entropy"] == 0.5
    assert scores["closer_look/model_utility"] == closer_look.model_utility(hand_log())
    assert scores["closer_look/forget_efficacy"] == closer_look.forget_efficacy(hand_log())
    assert not set(scores) & set(tofu.scores(hand_log()))
    bare = {"forget": [sample() | {"perturbed_nll": [], "perturbed_tokens": []}]}
    assert set(closer_look.scores(bare)) == {"forget/token_entropy", "forget/cosine_similarity", "forget/entailment"}


def test_errors_name_what_is_missing():
    with pytest.raises(ValueError, match='log must hold the set "forget", got sets'):
        closer_look.forget_efficacy({"retain": [sample()]})
    with pytest.raises(ValueError, match="the evaluated sets must be retain, real_authors, world_facts"):
        closer_look.model_utility({"retain": [sample()], "real_authors": [sample()]})
    without = sample()
    del without["cosine_similarity"]
    assert closer_look.scores({"forget": [without]}) == {}
    with pytest.raises(ValueError, match='every sample must hold "cosine_similarity"'):
        closer_look.forget_efficacy({"forget": [without]})
