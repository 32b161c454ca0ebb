"""Attacks on logs small enough to count pairs by hand."""

import pytest

from lightning_unlearn.evaluation import privacy, tofu
from tests.evaluation.made import made_log


def sample(nll, *, bytes=10, reference=1.0, norm=1.0):
    """Make a sample of two tokens that are equally probable."""
    return {
        "answer_nll": nll,
        "answer_tokens": 2,
        "answer_zlib_bytes": bytes,
        "reference_nll": reference,
        "gradient_norm": norm,
        "token_log_prob": [-nll / 2, -nll / 2],
        "token_predictive_entropy": [1.0, 1.0],
        "token_log_prob_variance": [1.0, 1.0],
    }


LOG = {
    "forget": [sample(1.0, bytes=5, reference=4.0, norm=2.0), sample(2.0, bytes=40, reference=1.0, norm=0.5)],
    "holdout": [sample(1.5, bytes=10, reference=2.0, norm=1.0), sample(2.0, bytes=10, reference=2.0, norm=3.0)],
}


def test_aucs_by_hand():
    found = privacy.scores(LOG)
    # scores of forget against holdout; a pair won counts 1, a tie 1/2, of 4 pairs
    losses = (2 + 0.5) / 4  # -.5, -1 against -.75, -1
    assert found == pytest.approx(
        {
            "privacy/loss_auc": losses,
            "privacy/zlib_auc": (0.5 + 2) / 4,  # -.2, -.05 against -.15, -.2
            "privacy/min_k_0.2_auc": losses,
            "privacy/min_k_0.4_auc": losses,
            "privacy/min_k_plus_plus_auc": losses,
            "privacy/reference_auc": (2 + 0) / 4,  # 1.5, -.5 against .25, 0
            "privacy/gradient_norm_auc": (1 + 2) / 4,  # -2, -.5 against -1, -3
        }
    )


def test_against_a_retrained_model():
    # there the forget rows are as probable as the others: an AUC of 1/2
    retrained = {"forget": LOG["holdout"], "holdout": LOG["holdout"]}
    found = privacy.scores(LOG, retrained)
    assert found["privacy/loss_closeness"] == pytest.approx(1 - (0.625 - 0.5) / 0.5)
    assert found["privacy/priv_leak"] == pytest.approx(-25)  # MUSE's AUC: (.375 - .5) / .5
    assert len(found) == 7 + 7 + 1
    told = {"forget": [sample(0.1)], "holdout": [sample(9.0)]}
    assert "privacy/priv_leak" not in privacy.scores(LOG, told)  # undefined where the retrained model tells all
    assert privacy.scores(LOG, told)["privacy/loss_closeness"] == pytest.approx(0.625)


def test_attacks_whose_columns_are_missing_are_left_out():
    kept = ("answer_nll", "answer_tokens", "token_log_prob")
    log = {name: [{key: row[key] for key in kept} for row in rows] for name, rows in LOG.items()}
    assert list(privacy.scores(log)) == [f"privacy/{attack}_auc" for attack in ("loss", "min_k_0.2", "min_k_0.4")]
    assert privacy.scores({"forget": LOG["forget"]}) == {}
    assert privacy.scores({"forget": LOG["forget"]}, LOG) == {}
    assert privacy.scores(LOG, {"forget": LOG["forget"]}) == privacy.scores(LOG)


def test_a_model_that_knows_is_told_by_every_attack():
    known = privacy.scores(made_log(40, knows={"forget": 1.0, "holdout": 0.1}))
    unknown = privacy.scores(made_log(40, knows={"forget": 0.1, "holdout": 0.1}))
    for attack in privacy.ATTACKS:
        assert known[f"privacy/{attack}_auc"] > 0.9
        assert abs(unknown[f"privacy/{attack}_auc"] - 0.5) < 0.2


def test_golden_loss_attack(published):
    """What Llama-2-7B was fine-tuned on is told by its loss, and by no more than chance where it knows both sets."""
    full, retrained = (tofu.read_log(published[name]) for name in ("full", "retain90"))
    found = privacy.scores({"forget": retrained["retain"], "holdout": retrained["forget"]})
    assert found == {"privacy/loss_auc": pytest.approx(1.0, abs=0.01)}
    (both,) = privacy.scores({"forget": full["forget"], "holdout": full["retain"]}).values()
    assert both == pytest.approx(0.5, abs=0.1)
