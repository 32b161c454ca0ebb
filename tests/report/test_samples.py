"""Which samples a report shows, and how."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lightning_unlearn.report.runs import Run
from lightning_unlearn.report.samples import distributions, galleries, marked, strips


def sample(stage: str, index: int, *, name: str = "forget", rouge: float = 0.5, **more) -> dict:
    return {
        "stage": stage,
        "set": name,
        "index": index,
        "question": f"Q{index}?",
        "answer": "a b",
        "generation": f"{stage} {index}",
        "rougeL_recall": rouge,
        "probability": 0.25,
        **more,
    }


def run(*samples: dict) -> Run:
    stages: dict[str, list[dict]] = {}
    for row in samples:
        stages.setdefault(row["stage"], []).append(row)
    return Run(path=Path("run"), samples=stages)


def tokens(*log_probs: float, entropy: float = 1.0) -> dict:
    texts = [f"t{place}" for place in range(len(log_probs))]
    return {"token_text": texts, "token_log_prob": list(log_probs), "token_predictive_entropy": [entropy] * len(texts)}


def test_stages_of_a_row_stand_side_by_side_in_order():
    (gallery,) = galleries(run(sample("after", 3), sample("retrained", 3), sample("before", 3)))
    assert [answer["stage"] for answer in gallery["cards"][0]["answers"]] == ["before", "after", "retrained"]
    assert gallery["cards"][0]["question"] == "Q3?"
    assert gallery["cards"][0]["answers"][1]["told"] == "ROUGE-L 0.50 · probability 0.25"


@pytest.mark.parametrize(("name", "first"), [("forget", "Q2?"), ("retain", "Q0?")])
def test_the_worst_come_first(name, first):
    rows = [sample("after", index, name=name, rouge=index / 10) for index in range(3)]
    (gallery,) = galleries(run(*rows))
    assert gallery["cards"][0]["question"] == first


def test_rows_that_failed_are_no_example():
    (gallery,) = galleries(run(sample("after", 0), {**sample("after", 1), "failed": "too long"}))
    assert [card["question"] for card in gallery["cards"]] == ["Q0?"]
    assert gallery["total"] == 1


def test_the_worst_are_named_by_the_scores_that_say_so():
    rows = [sample("after", index, rouge=index / 10, cosine_similarity=1 - index / 10) for index in range(3)]
    named = Run(Path("run"), samples={"after": rows}, substitutes={"cosine_similarity": "bag of words"})
    (gallery,) = galleries(named)
    assert [(card["question"], card["worst_by"]) for card in gallery["cards"]] == [
        ("Q2?", ["ROUGE-L recall"]),
        ("Q0?", ["bag of words (substitute)"]),
        ("Q1?", []),
    ]


def test_a_few_of_many_are_shown():
    (gallery,) = galleries(run(*[sample("after", index) for index in range(50)]))
    assert (len(gallery["cards"]), gallery["total"]) == (6, 50)


def test_a_set_that_only_one_stage_has():
    (gallery,) = galleries(run(sample("before", 0, name="odd")))
    assert gallery["name"] == "odd"


def test_missing_fields_leave_gaps():
    (gallery,) = galleries(run({"stage": "after", "set": "forget"}))
    assert gallery["cards"][0]["answers"][0]["told"] == ""


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("born in Oslo.", "He was born in Oslo", "<mark>born in Oslo.</mark>"),  # case and punctuation do not count
        ("nothing alike", "He was born", "nothing alike"),
        ("", "He was born", ""),
        ("a <i> b", "a b", "<mark>a</mark> &lt;i&gt; <mark>b</mark>"),
    ],
)
def test_marked(text, reference, expected):
    assert marked(text, reference) == expected


def test_endless_answers_are_cut():
    assert marked("no " * 100, "yes") == "no " * 80 + "…"
    assert marked("no " * 80, "yes") == ("no " * 80).strip()


def test_long_texts_are_cut():
    row = sample("after", 0, **tokens(*[0.0] * 1000))
    (gallery,) = galleries(run({**row, "question": "q" * 9000, "answer": "a" * 9000, "generation": "g" * 9000}))
    card = gallery["cards"][0]
    assert max(len(text) for text in (card["question"], card["answer"], card["answers"][0]["text"])) <= 1201
    assert len(strips(run(row))[0]["rows"][0][1]) == 200


def test_strips_hold_probability_and_entropy_of_each_token():
    before = sample("before", 0, **tokens(math.log(0.5), 0.0, entropy=1.0))
    after = sample("after", 0, **tokens(-1000.0, math.log(0.25), entropy=4.0))
    (strip,) = strips(run(before, after))
    rows = dict(strip["rows"])
    assert [token["probability"] for token in rows["before"]] == ["0.500", "1.000"]
    assert [token["probability"] for token in rows["after"]] == ["0.000", "0.250"]
    assert [rows[stage][0]["share"] for stage in ("before", "after")] == ["0.25", "1.00"]  # of the largest, 4 nats
    assert rows["after"][1]["told"] == "probability 0.250, entropy 4.000 nats"


def test_strips_need_tokens_of_every_stage():
    assert strips(run(sample("before", 0, **tokens(0.0)), sample("after", 0))) == []


def test_newlines_and_masks_of_tokens_are_visible():
    row = sample("after", 0, **tokens(0.0, 0.0))
    row["token_text"] = ["\n", "[redacted]"]
    ((_, shown),) = strips(run(row))[0]["rows"]
    assert [token["text"] for token in shown] == ["↵", "•"]


def test_distributions_compare_stages():
    before = sample("before", 0, **tokens(0.0, 0.0, entropy=0.5))
    after = sample("after", 0, **tokens(math.log(0.2), math.log(0.4), entropy=6.0))
    drawn = distributions(run(before, after))
    assert [plot["title"] for plot in drawn] == [
        "Probability of answer tokens, forget set",
        "Entropy of answer tokens, forget set",
    ]
    assert "before: mean 1.000; after: mean 0.300" in drawn[0]["svg"]
    assert "before: mean 0.500; after: mean 6.000" in drawn[1]["svg"]
    assert drawn[0]["stages"] == ["before", "after"]


def test_no_tokens_no_distributions():
    assert distributions(run(sample("before", 0))) == []
