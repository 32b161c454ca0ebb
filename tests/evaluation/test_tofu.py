"""The TOFU aggregates: the authors' published logs as golden inputs, and small logs by hand."""

import json
import math

import pytest
import torch

from lightning_unlearn.evaluation import tofu


@pytest.mark.parametrize(
    ("name", "form", "expected"),
    [
        ("full", "geometric", 0.6227),
        ("full", "arithmetic", 0.5859),
        ("retain90", "geometric", 0.6137),
        ("retain90", "arithmetic", 0.5752),
    ],
)
def test_golden_model_utility(published, name, form, expected):
    log = tofu.read_log(published[name])
    assert {key: len(rows) for key, rows in log.items()} == {
        "forget": 300,
        "retain": 300,
        "real_authors": 100,
        "world_facts": 117,
    }
    utility = tofu.model_utility(log, truth_ratio=form)
    assert isinstance(utility, float)
    assert utility == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("form", "expected"), [("geometric", 1.8e-21), ("arithmetic", 6.0e-23)])
def test_golden_forget_quality(published, form, expected):
    full, retrained = (tofu.read_log(published[name]) for name in ("full", "retain90"))
    p_value = tofu.forget_quality(full, retrained, truth_ratio=form)
    assert isinstance(p_value, float)
    assert p_value == pytest.approx(expected, rel=0.03)
    assert tofu.forget_quality(full, full, truth_ratio=form) == 1.0


def test_golden_truth_ratios_are_the_files_own(published):
    content = json.loads(published["full"].read_text())
    log = tofu.read_log(published["full"])
    for file, name in tofu.PUBLISHED_SETS.items():
        theirs = torch.tensor(list(content[file]["truth_ratio"].values()), dtype=torch.float64)
        torch.testing.assert_close(tofu.truth_ratios(log[name]), theirs, rtol=1e-5, atol=1e-5)
    # the share of the true answer among the options, which the file stores as a loss
    theirs = torch.tensor(list(content["eval_real_author_wo_options.json"]["normalized_gt_loss"].values())).double()
    torch.testing.assert_close(
        -tofu.probabilities(log["real_authors"], "real_authors").log(), theirs, rtol=1e-5, atol=1e-5
    )


def test_golden_scores(published):
    full, retrained = (tofu.read_log(published[name]) for name in ("full", "retain90"))
    scores = tofu.scores(full, retrained)
    assert scores["model_utility"] == tofu.model_utility(full)
    assert scores["model_utility_arithmetic"] == tofu.model_utility(full, truth_ratio="arithmetic")
    assert scores["forget_quality"] == tofu.forget_quality(full, retrained)
    assert scores["forget/probability"] > 0.98
    assert tofu.scores(retrained)["forget/probability"] < 0.2
    assert "forget_quality" not in tofu.scores(full)


def sample(answer=1.0, paraphrase=1.0, perturbed=(2.0, 4.0), rouge=0.5, **extra):
    """Make a sample with one token a text, so that NLLs are those a token."""
    return {
        "answer_nll": answer,
        "answer_tokens": 1,
        "paraphrase_nll": paraphrase,
        "paraphrase_tokens": 1,
        "perturbed_nll": list(perturbed),
        "perturbed_tokens": [1] * len(perturbed),
        "rouge1_recall": rouge,
        "rougeL_recall": rouge,
        **extra,
    }


HALF = math.log(2)


def hand_log():
    # probabilities: answer 1/2, paraphrase 1/2, wrong 1/4 and 1/4, so R = 1/2 in both forms
    row = sample(HALF, HALF, (2 * HALF, 2 * HALF), rouge=0.5)
    return {name: [dict(row)] for name in ("forget", "retain", "real_authors", "world_facts")}


def test_scores_by_hand():
    scores = tofu.scores(hand_log())
    assert scores["retain/probability"] == pytest.approx(1 / 2)
    assert scores["real_authors/probability"] == pytest.approx(1 / 2)  # 1/2 / (1/2 + 1/4 + 1/4)
    assert scores["forget/truth_ratio"] == pytest.approx(1 / 2)  # min(1/2, 2)
    assert scores["retain/truth_ratio"] == pytest.approx(1 / 2)  # max(0, 1 - 1/2)
    assert scores["model_utility"] == pytest.approx(1 / 2)
    log = hand_log()
    log["retain"][0]["rougeL_recall"] = 1.0
    assert tofu.model_utility(log) == pytest.approx(9 / 17)  # 9 / (8 * 2 + 1)
    log["world_facts"][0]["rougeL_recall"] = 0.0
    assert tofu.model_utility(log) == 0.0


def test_the_two_forms_differ_by_hand():
    # wrong probabilities 1/2 and 1/8: geometric mean 1/4, arithmetic 5/16; paraphrase 1/2
    log = {"retain": [sample(HALF, HALF, (HALF, 3 * HALF), rouge=0.5)]}
    assert tofu.model_utility(log) == pytest.approx(3 / (2 + 2 + 1 / (1 - 1 / 2)))
    assert tofu.model_utility(log, truth_ratio="arithmetic") == pytest.approx(3 / (2 + 2 + 1 / (1 - 5 / 8)))


def test_missing_sets_are_an_error_unless_retain_is_alone():
    log = hand_log()
    del log["world_facts"]
    with pytest.raises(
        ValueError, match=r"the evaluated sets must be retain, real_authors, world_facts .*got \['forget'"
    ):
        tofu.model_utility(log)
    del log["real_authors"]
    assert tofu.model_utility(log) == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match='retrained_log must hold the set "forget", got sets'):
        tofu.forget_quality(log, {"retain": log["retain"]})
    assert "model_utility" not in tofu.scores({"forget": log["forget"]})


def test_without_perturbed_answers_there_is_no_truth_ratio_and_no_aggregate():
    log = {"forget": [sample(perturbed=())], "retain": [sample(perturbed=())]}
    scores = tofu.scores(log, hand_log())
    assert set(scores) == {f"{s}/{k}" for s in log for k in ("probability", "rouge1_recall", "rougeL_recall")}
    with pytest.raises(ValueError, match="at least one wrong answer a row, got none in rows"):
        tofu.model_utility(log)


def test_errors_name_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match='truth_ratio must be "geometric" or "arithmetic", got "harmonic"'):
        tofu.model_utility(hand_log(), truth_ratio="harmonic")
    log = hand_log()
    del log["retain"][0]["rougeL_recall"]
    with pytest.raises(ValueError, match=r'every sample must hold "rougeL_recall", got none in rows \[0\]'):
        tofu.model_utility(log)
    other = tmp_path / "other.json"
    other.write_text('{"something": {}}')
    with pytest.raises(ValueError, match=r"must hold .*, got \['something'\]"):
        tofu.read_log(other)


def test_rows_with_different_numbers_of_wrong_answers():
    rows = [sample(1.0, 1.0, (2.0,)), sample(1.0, 1.0, (2.0, 4.0, 6.0))]
    assert tofu.truth_ratios(rows).tolist() == pytest.approx([math.exp(1 - 2), math.exp(1 - 4)])
    wrong = math.exp(-2) + math.exp(-4) + math.exp(-6)
    expected = [math.exp(-1) / (math.exp(-1) + math.exp(-2)), math.exp(-1) / (math.exp(-1) + wrong)]
    assert tofu.probabilities(rows, "world_facts").tolist() == pytest.approx(expected)
