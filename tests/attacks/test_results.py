from __future__ import annotations

import json
from collections.abc import Iterator
from typing import ClassVar

import pytest

from lightning_unlearn.attacks.base import Attack, Measurement
from lightning_unlearn.attacks.exam import Exam
from lightning_unlearn.attacks.results import Results
from lightning_unlearn.models import load_causal_lm
from tests.attacks.exams import FORGET, exam, taught


class Counted(Attack):
    """Measures nothing but how often it was asked."""

    x_name: ClassVar[str] = "steps"
    scores: ClassVar[dict[str, str]] = {"k": "K"}
    asked: ClassVar[list[int]] = []
    begun: ClassVar[list[type]] = []

    def __init__(self, *, gain: float = 0.1, stop: int = 9, file: str = "") -> None:
        self.gain, self.stop, self.file = gain, stop, file

    def points(self, model, exam: Exam) -> Iterator[Measurement]:
        self.begun.append(type(self))
        for x in range(3):
            yield x, lambda x=x: self.measured(x)

    def measured(self, x: int) -> dict[str, float]:
        if x == self.stop:
            raise RuntimeError("stopped")
        self.asked.append(x)
        return {"k": self.gain * x}


@pytest.fixture
def asked(tiny_model_dir) -> Exam:
    Counted.asked.clear()
    return exam(tiny_model_dir())


@pytest.fixture
def model(tiny_model_dir):
    return load_causal_lm(tiny_model_dir())


def test_the_file(asked, model, tmp_path):
    results = Results(Counted(), asked, tmp_path)
    results.measure("unlearned", model)
    results.measure("start", model)
    content = json.loads((tmp_path / "stress/counted.json").read_text())
    assert content["attack"] == "Counted"
    assert content["options"] == {"gain": 0.1, "stop": 9, "file": ""}
    assert content["x"] == {"name": "steps"}
    assert content["scores"] == {"k": "K"}
    assert content["curves"]["unlearned"] == [{"x": 0, "k": 0.0}, {"x": 1, "k": 0.1}, {"x": 2, "k": 0.2}]
    assert content["recovered"]["share"] == 1.0  # the same model twice: 0.2 of 0.2 that the start shows beyond 0
    assert not any(r.question in json.dumps(content) or r.answer in json.dumps(content) for r in FORGET)


def test_a_stopped_attack_goes_on(asked, model, tmp_path):
    attack = Counted(stop=2)
    with pytest.raises(RuntimeError):
        Results(attack, asked, tmp_path).measure("unlearned", model)
    assert Counted.asked == [0, 1]
    again = Results(attack, asked, tmp_path)
    assert len(again.curves["unlearned"]) == 2
    with pytest.raises(RuntimeError):
        again.measure("unlearned", model)
    assert Counted.asked == [0, 1]  # none twice
    assert len(json.loads((tmp_path / "stress/counted.json").read_text())["curves"]["unlearned"]) == 2


def test_other_weights_options_rows_or_files_are_measured_anew(asked, model, tiny_model_dir, tmp_path):
    source = tmp_path / "rows.txt"
    source.write_text("a")

    def count(attack: Attack, asked: Exam, name: str, model) -> int:
        Counted.asked.clear()
        Results(attack, asked, tmp_path).measure(name, model)
        return len(Counted.asked)

    plain = Counted(file=str(source))
    assert count(plain, asked, "unlearned", model) == 3
    assert count(plain, asked, "unlearned", model) == 0
    assert count(plain, asked, "start", model) == 3
    assert count(plain, asked, "unlearned", model) == 0
    assert count(plain, asked, "start", taught(tiny_model_dir(), FORGET, steps=1)) == 3
    assert count(Counted(gain=0.2, file=str(source)), asked, "unlearned", model) == 3
    assert set(json.loads((tmp_path / "stress/counted.json").read_text())["curves"]) == {"unlearned"}
    assert count(plain, exam(tiny_model_dir(), max_rows=2), "unlearned", model) == 3
    assert count(plain, asked, "unlearned", model) == 3
    source.write_text("b")
    assert count(plain, asked, "unlearned", model) == 3


def test_what_is_finished_is_not_begun_again(asked, model, tmp_path):
    Results(Counted(), asked, tmp_path).measure("unlearned", model)
    Counted.begun.clear()
    again = Results(Counted(), asked, tmp_path)
    assert [point["x"] for point in again.measure("unlearned", model)] == [0, 1, 2]
    assert not Counted.begun
    again.measure("start", model)
    assert len(Counted.begun) == 1
    assert json.loads((tmp_path / "stress/counted.json").read_text())["finished"] == ["unlearned", "start"]


def test_a_failure_is_noted_until_it_is_mended(asked, model, tmp_path):
    results = Results(Counted(), asked, tmp_path)
    results.fail("unlearned", RuntimeError(FORGET[0].answer))
    content = json.loads((tmp_path / "stress/counted.json").read_text())
    assert content["failed"] == {"unlearned": "RuntimeError"}
    Results(Counted(), asked, tmp_path).measure("unlearned", model)
    assert json.loads((tmp_path / "stress/counted.json").read_text())["failed"] == {}


class Failing(Counted):
    """Cannot ask a row: at no point, or not without the attack."""

    def __init__(self, *, without: tuple[int, ...]) -> None:
        super().__init__()
        self.without = without

    def measured(self, x: int) -> dict:
        failed = {"failed": [{"set": "forget", "index": x, "why": f"why {x}"}]}
        return failed if x in self.without else super().measured(x)


@pytest.mark.parametrize("without", [(0,), (1, 2)])
def test_an_attack_that_could_ask_nobody_has_failed(asked, model, tmp_path, without):
    results = Results(Failing(without=without), asked, tmp_path)
    with pytest.raises(ValueError, match=f"no row could be asked: why {without[0]}"):
        results.measure("unlearned", model)
    assert results.finished == []


def test_rows_that_were_not_asked_are_in_the_file(asked, model, tmp_path):
    results = Results(Failing(without=(1,)), asked, tmp_path)
    results.measure("unlearned", model)
    content = json.loads((tmp_path / "stress/failing.json").read_text())
    assert content["rows"] == 6
    assert content["curves"]["unlearned"][1] == {"x": 1, "failed": [{"set": "forget", "index": 1, "why": "why 1"}]}
    assert content["left_out"] == ""


def test_one_that_is_left_out_says_why_and_keeps_what_was_found(asked, model, tmp_path):
    file = tmp_path / "stress/counted.json"
    Results(Counted(), asked, tmp_path).leave_out("too few rows")
    assert json.loads(file.read_text())["left_out"] == "too few rows"
    Results(Counted(), asked, tmp_path).measure("unlearned", model)
    found = file.read_text()
    assert json.loads(found)["left_out"] == ""
    Results(Counted(gain=2.0), asked, tmp_path).leave_out("too few rows")
    assert file.read_text() == found


def test_nothing_is_written_without_a_folder(asked, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    points = Results(Counted(), asked).measure("unlearned", model)
    assert [point["x"] for point in points] == [0, 1, 2]
    assert not list(tmp_path.iterdir())
