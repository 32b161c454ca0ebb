"""Scores by subject, the worst first."""

from __future__ import annotations

from pathlib import Path

from lightning_unlearn.report.runs import Run
from lightning_unlearn.report.subjects import subjects


def row(stage: str, subject: str, recall: float | None, *, name: str = "forget", **more) -> dict:
    scores = {} if recall is None else {"rougeL_recall": recall, "probability": recall / 2}
    return {"stage": stage, "set": name, "subject": subject, **scores, **more}


def run(*rows: dict) -> Run:
    samples: dict[str, list[dict]] = {}
    for sample in rows:
        samples.setdefault(sample["stage"], []).append(sample)
    return Run(Path("r"), samples=samples)


def test_means_by_subject_the_least_forgotten_first():
    (table,) = subjects(
        run(
            *(row("before", subject, 1.0) for subject in ("Ana", "Ben", "Ben")),
            *(row("after", "Ana", 0.1), row("after", "Ben", 0.2), row("after", "Ben", 0.6)),
            *(row("after", "", 0.9), row("after", "Ben", None, failed="too long")),
        )
    )
    assert (table["name"], table["falls"], table["stages"]) == ("Forget", False, ["before", "after"])
    assert [(line["subject"], line["rows"]) for line in table["rows"]] == [("Ben", 2), ("Ana", 1)]
    # Ben after: recall (0.2 + 0.6) / 2, probability half of it
    assert table["rows"][0]["cells"] == [
        ("before", "1.000"),
        ("after", "0.400"),
        ("before", "0.500"),
        ("after", "0.200"),
    ]
    assert [(score["label"], score["aim"]) for score in table["scores"]] == [
        ("ROUGE-L recall", "lower"),
        ("Probability", "lower"),
    ]


def test_of_those_to_be_kept_who_lost_most_comes_first():
    rows = [
        *(row("before", "low", 0.3, name="retain"), row("after", "low", 0.2, name="retain")),
        *(row("before", "high", 0.9, name="retain"), row("after", "high", 0.5, name="retain")),
    ]
    (table,) = subjects(run(*rows))
    assert table["falls"]
    assert [line["subject"] for line in table["rows"]] == ["high", "low"]


def test_a_subject_without_score_after_training_comes_last():
    (table,) = subjects(run(row("before", "Ana", 1.0), row("after", "Ana", None), row("after", "Ben", 0.0)))
    assert [line["subject"] for line in table["rows"]] == ["Ben", "Ana"]
    assert table["rows"][1]["cells"][1] == ("after", "–")


def test_one_subject_or_masked_ones_have_no_table():
    assert subjects(run(row("after", "Ana", 0.1))) == []
    assert subjects(run(row("after", "[redacted 3 chars]", 0.1), row("after", "[redacted 4 chars]", 0.1))) == []
