"""The verdict, from scores by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_unlearn.report.runs import Run
from lightning_unlearn.report.verdict import grade, kept, of_muse, share_removed, verdict


def run(**stages: dict[str, float]) -> Run:
    return Run(path=Path("run"), metrics=stages)


def scores(forget: float, retain: float = 1.0, **more: float) -> dict[str, float]:
    return {"forget/rougeL_recall": forget, "retain/rougeL_recall": retain, "retain/probability": retain, **more}


@pytest.mark.parametrize(
    ("before", "after", "floor", "share"),
    [
        (1.0, 0.25, None, 0.75),
        (0.9, 0.3, 0.1, 0.75),  # 0.6 of the 0.8 between the starting and the retrained model
        (0.9, 0.1, 0.1, 1.0),
        (0.5, 0.25, 0.6, 0.5),  # a retrained model that knows more than the starting one says nothing
        (0.0, 0.0, None, 1.0),  # nothing was known, nothing is left
        (0.5, 0.75, None, -0.5),  # learned instead
    ],
)
def test_share_removed(before, after, floor, share):
    assert share_removed(before, after, floor) == pytest.approx(share)


@pytest.mark.parametrize(
    ("share", "mark"), [(0.9, "yes"), (0.89, "partly"), (0.5, "partly"), (0.4, "no"), (None, "unknown")]
)
def test_grade(share, mark):
    assert grade(share, 0.9, 0.5) == mark


def test_kept_is_the_worse_of_the_two_scores():
    before = {"retain/rougeL_recall": 0.8, "retain/probability": 0.5}
    after = {"retain/rougeL_recall": 0.8, "retain/probability": 0.4}
    assert kept(run(before=before, after=after)) == pytest.approx(0.8)
    assert kept(run(before=before, after={})) is None


def test_forgotten_and_kept():
    judged = verdict(run(before=scores(0.998), after=scores(0.052, 0.987), retrained=scores(0.161)))
    assert (judged.forgot, judged.kept) == ("yes", "yes")
    assert judged.sentence == (
        "The model has forgotten: its recall of the forget set went from 0.998 to 0.052, "
        "and it keeps 98.7% of its score on the retain set."
    )
    assert judged.details == ("A model trained without the forget set scores 0.161 there.",)


def test_forgotten_but_damaged():
    judged = verdict(run(before=scores(1.0), after=scores(0.0, 0.2)))
    assert (judged.forgot, judged.kept) == ("yes", "no")
    assert judged.sentence.endswith(", but it keeps no more than 20% of its score on the retain set.")


def test_in_part_and_not_at_all():
    assert verdict(run(before=scores(1.0), after=scores(0.6))).sentence.startswith("The model has forgotten in part: ")
    judged = verdict(run(before=scores(1.0), after=scores(0.9)))
    assert judged.forgot == "no"
    assert judged.sentence.startswith("The model still remembers: ")


def test_a_retrained_model_moves_the_bar():
    # 0.4 is 60 % of the way to zero, but 80 % of the way to a retrained model that scores 0.25
    assert verdict(run(before=scores(1.0), after=scores(0.4))).forgot == "partly"
    assert verdict(run(before=scores(1.0), after=scores(0.4), retrained=scores(0.25))).forgot == "yes"


def test_an_unfinished_run_has_no_verdict():
    judged = verdict(run(before=scores(1.0)))
    assert (judged.forgot, judged.kept) == ("unknown", "unknown")
    assert judged.sentence == "This run has no final evaluation yet, so there is no verdict."


def test_no_starting_model():
    judged = verdict(run(after=scores(0.2)))
    assert judged.sentence == "The model's recall of the forget set is 0.200; where it started is not known."


def test_no_recall_after_training():
    judged = verdict(run(before=scores(1.0), after={"retain/probability": 1.0}))
    assert judged.sentence == "The model's recall of the forget set was not measured, so there is no verdict."


@pytest.mark.parametrize(("quality", "words"), [(0.4, "cannot be told apart"), (0.01, "can be told apart")])
def test_forget_quality_is_told(quality, words):
    details = verdict(run(before=scores(1.0), after=scores(0.0, forget_quality=quality))).details
    assert words in details[0]


def test_degenerate_answers_are_told():
    after = scores(0.0, **{"forget/token_entropy": 0.1})
    assert "repeat themselves (token entropy 0.100)" in verdict(run(before=scores(1.0), after=after)).details[0]


def test_a_loss_of_general_knowledge_is_told():
    before = scores(1.0, **{"real_authors/rougeL_recall": 1.0, "world_facts/rougeL_recall": 0.8})
    after = scores(0.0, **{"real_authors/rougeL_recall": 0.635, "world_facts/rougeL_recall": 0.5})
    assert verdict(run(before=before, after=after)).details == (
        "General knowledge suffered: of its recall it keeps 63.5% on real authors and 62.5% on world facts.",
    )
    assert verdict(run(before=before, after={**after, **before})).details == ()


def test_muse_says_what_is_left_and_kept_but_judges_nothing():
    keys = ("muse/verbatim_memorization", "muse/utility")
    stages = {"before": dict(zip(keys, (0.9, 0.5), strict=True)), "after": dict(zip(keys, (0.1, 0.4), strict=True))}
    judged = verdict(run(**stages))
    assert judged.sentence == "Verbatim memorisation of all texts is 0.100 (from 0.900), utility 0.400 (from 0.500)."
    assert (judged.forgot, judged.kept) == ("unknown", "unknown")
    assert of_muse(run(), run(after={keys[0]: 0.1})) == ""
