"""Labels and formats."""

from __future__ import annotations

import math

import pytest

from lightning_unlearn.report.words import better, duration, metric_label, number, percent, shown

SUBSTITUTES = {"cosine_similarity": "bag-of-words cosine"}


@pytest.mark.parametrize(
    ("key", "substitutes", "label"),
    [
        ("forget/cosine_similarity", {}, "Cosine similarity"),
        ("forget/cosine_similarity", SUBSTITUTES, "bag-of-words cosine (substitute)"),
        ("forget/entailment", SUBSTITUTES, "Entailment"),
        ("closer_look/forget_efficacy", {}, "Forget efficacy (closer look)"),
        ("closer_look/forget_efficacy", SUBSTITUTES, "Forget efficacy (with substitutes)"),
        ("model_utility", SUBSTITUTES, "Model utility (TOFU)"),  # rests on no judge
        ("forget/something_new", {}, "something_new"),
        ("privacy/loss_auc", {}, "LOSS: AUC"),
        ("privacy/mine_closeness", {}, "mine: closeness to the retrained model"),
        ("privacy/priv_leak", {}, "PrivLeak (percent, best at 0)"),
        ("privacy/else", {}, "else"),
    ],
)
def test_a_substitute_never_bears_the_papers_name(key, substitutes, label):
    assert metric_label(key, substitutes) == label


@pytest.mark.parametrize(
    ("key", "direction"),
    [
        ("forget/rougeL_recall", "lower"),
        ("retain/rougeL_recall", "higher"),
        ("forget/truth_ratio", "higher"),
        ("forget_quality", "higher"),
        ("forgotten_2/extraction_strength", "lower"),
        ("retain/extraction_strength", "higher"),
        ("holdout/probability", ""),
        ("forget/predictive_entropy", ""),
        ("forget/something_new", ""),
        ("privacy/loss_auc", ""),
        ("privacy/loss_closeness", "higher"),
        ("privacy/priv_leak", ""),
        ("unlearning_score/harmonic_mean", "higher"),
        ("general_ability/arc_easy/acc_norm", "higher"),
        ("general_ability/gsm8k/exact_match (strict-match)", "higher"),
        ("general_ability/wikitext/word_perplexity", ""),
        ("general_ability/wmdp_bio/acc", "lower"),
        ("muse/verbatim_memorization", "lower"),
        ("muse/utility", "higher"),
        ("muse/priv_leak", ""),
        ("rwku/forget_adversarial", "lower"),
        ("rwku/neighbor_mean", "higher"),
        ("lume/retain_task1_completion", "higher"),
        ("lume/mia_auc", ""),
    ],
)
def test_better(key, direction):
    assert better(key) == direction


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.0005, "0.001"),
        (0.0004, "4.0e-04"),
        (-2.5, "-2.500"),
        (math.nan, "–"),
        (math.inf, "–"),
        (1e6, "1,000,000"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_percent_and_duration_and_shown():
    assert percent(1.0) == "100%"
    assert (duration(None), duration(59.96), duration(3600)) == ("–", "60.0 s", "1 h 0 min")
    assert (shown(False), shown((1, 2.5)), shown("x")) == ("no", "1, 2.5", "x")
