from __future__ import annotations

from itertools import combinations

import pytest

from lightning_unlearn.attacks.best_of_n import BestOfN, expected_best
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
    said = [attack._said(model, asked, FORGET, 1.5, draw) for draw in range(3)]
    assert len({tuple(answers) for answers in said}) == 3  # each draw is another
    best = [max(rouge_recall(answers[i], r.answer).rougeL for answers in said) for i, r in enumerate(FORGET)]
    assert points[3] == pytest.approx(sum(best) / len(best))
    assert points[1] < points[2] < points[3]


def test_answers_are_drawn_once(tiny_model_dir, monkeypatch):
    asked, drawn = exam(tiny_model_dir(), max_new_tokens=2), []
    real = BestOfN._said
    monkeypatch.setattr(BestOfN, "_said", lambda *arguments: drawn.append(1) or real(*arguments))
    for _, scores in BestOfN(n=4).points(taught(tiny_model_dir(), FORGET, steps=1), asked):
        scores()
    assert len(drawn) == 1 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n": 1}, "n must be at least 2, got 1"), ({"temperature": 0.0}, "temperature must be above 0, got 0.0")],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        BestOfN(**options)
