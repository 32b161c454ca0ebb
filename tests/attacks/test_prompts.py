from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from lightning_unlearn.attacks.prompts import PromptAttack
from tests.attacks.exams import FORGET, exam, taught


class Shouted(PromptAttack):
    def variants(self, exam) -> Mapping:
        return {"shouted": [replace(r, question=r.question.upper()) for r in exam.forget]}


def test_plain_comes_first_and_each_variant_is_asked(tiny_model_dir):
    asked, model = exam(tiny_model_dir()), taught(tiny_model_dir(), FORGET)
    points = {x: scores() for x, scores in Shouted().points(model, asked)}
    assert list(points) == ["plain", "shouted"]
    assert points["plain"]["forget/probability"] > 0.7
    assert points["shouted"]["forget/probability"] < points["plain"]["forget/probability"]
    loud = [replace(r, question=r.question.upper()) for r in FORGET]
    assert points["shouted"] == pytest.approx(asked.scores(model, loud))
