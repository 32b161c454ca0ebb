from __future__ import annotations

from itertools import combinations

import pytest

from lightning_unlearn.attacks.best_of_n import BestOfN, best_of, expected_best
from lightning_unlearn.attacks.exam import Exam
from lightning_unlearn.metrics.rouge import rouge_recall
from tests.attacks.exams import FORGET, exam, taught


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_expected_best_is_the_mean_over_all_choices(k):
    values = [0.3, 0.9, 0.1, 0.9, 0.5]
    chosen = [max(choice) for choice in combinations(values, k)]
    assert expected_best(values, k) == pytest.approx(sum(chosen) / len(chosen))


def test_points_follow_from_the_draws(tiny_model_dir):
    asked, model = exam(tiny_model_dir()), taught(tiny_model_dir(), FORGET, steps=25)
    attack = BestOfN(n=3, temperature=1.5, seed=4)
    points = {x: scores()["forget/rougeL_recall"] for x, scores in attack.points(model, asked)}
    assert list(points) == [0, 1, 2, 3]
    assert points[0] == pytest.approx(asked.scores(model, FORGET)["forget/rougeL_recall"])
    draws = [asked.ask(model, FORGET, temperature=1.5, seed=4 * 1_000_003 + draw) for draw in range(3)]
    said = [[sample["generation"] for sample in draw] for draw in draws]
    assert len({tuple(answers) for answers in said}) == 3  # each draw is another
    best = [max(rouge_recall(answers[i], r.answer).rougeL for answers in said) for i, r in enumerate(FORGET)]
    assert points[3] == pytest.approx(sum(best) / len(best))
    assert points[1] < points[2] < points[3]


def test_answers_are_drawn_once(tiny_model_dir, monkeypatch):
    asked, drawn = exam(tiny_model_dir(), max_new_tokens=2), []
    real = Exam.ask
    monkeypatch.setattr(Exam, "ask", lambda *arguments, **options: drawn.append(1) or real(*arguments, **options))
    for _, scores in BestOfN(n=4).points(taught(tiny_model_dir(), FORGET, steps=1), asked):
        scores()
    assert len(drawn) == 1 + 4


def test_a_row_that_fails_in_one_draw_is_left_out_and_named():
    rows = [{"set": "forget", "index": i} for i in (2, 5)]
    draws = [
        [{**rows[0], "rougeL_recall": 0.25}, {**rows[1], "rougeL_recall": 1.0}],
        [{**rows[0], "rougeL_recall": 0.75}, {**rows[1], "failed": "too long"}],
    ]
    assert best_of(draws, 2) == {
        "forget/rougeL_recall": 0.75,
        "forget/rougeL_recall_error": 0.0,
        "failed": [{"set": "forget", "index": 5, "why": "too long"}],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1}, "n must be at least 2, got 1"),
        ({"temperature": 0.0}, "temperature must be above 0 and finite, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be above 0 and finite, got nan"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        BestOfN(**options)
