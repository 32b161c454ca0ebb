from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace

import pytest

from benchmarks.harness import Benchmark, add_options, conduct, read_options
from benchmarks.targets import Outcome


@dataclass(frozen=True)
class Result:
    case: str
    seconds: float


class Stopwatch:
    """A benchmark that measures nothing and notes for which cases it was asked to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.of = Benchmark(
            cases=["one", "two", "three"],
            measure=self.measure,
            targets={"cpu": lambda results: [Outcome("all there", len(results), len(results) == 3, "here")]},
            environment=lambda device: {"device": device, "torch": "2"},
            header=lambda: "| case |",
            rows=lambda results: "\n".join(f"| {result.case} |" for result in results),
            read=lambda record: Result(**record),
            drawings=lambda results: {"some.svg": f"<svg>{len(results)}</svg>", "none.svg": None},
        )

    def measure(self, case: str):
        self.asked.append(case)
        return [Result(case, 1.0)], {}


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.some")
    parser.add_argument("--tokens", type=int, nargs="+")
    add_options(parser, repeats=3, minutes="no limit")
    return read_options(parser, ["--device", "cpu", *argv], positive=("tokens",))


def test_a_run_is_printed_and_written(stopwatch, capsys, tmp_path):
    arguments = parse("--output", str(tmp_path / "new"), "--check")
    conduct(stopwatch.of, arguments)
    out, err = capsys.readouterr()
    assert err.splitlines() == ["[1/3] one", "[2/3] two", "[3/3] three"]
    assert "| case |\n| one |\n| two |\n| three |\n" in out
    assert "met           all there: 3 (here)" in out
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["results.jsonl", "some.svg", "table.md"]
    page = (tmp_path / "new/table.md").read_text()
    assert page.startswith(f"`python -m benchmarks.some --device cpu --output {tmp_path}/new --check`, ")
    assert "| three |" in page
    assert "met           all there: 3 (here)" in page
    machine, *records = map(json.loads, (tmp_path / "new/results.jsonl").read_text().splitlines())
    assert (machine, records[0]) == ({"device": "cpu", "torch": "2"}, {"case": "one", "seconds": 1.0})


def test_a_run_goes_on_where_it_was(stopwatch, tmp_path):
    conduct(replace(stopwatch.of, cases=["one", "two"]), parse("--output", str(tmp_path)))
    conduct(stopwatch.of, parse("--output", str(tmp_path), "--check"))
    assert stopwatch.asked == ["one", "two", "three"]
    assert (tmp_path / "some.svg").read_text() == "<svg>3</svg>"
    other = replace(stopwatch.of, environment=lambda device: {"device": device, "torch": "3"})
    with pytest.raises(SystemExit, match="--output: expected a folder without results"):
        conduct(other, parse("--output", str(tmp_path)))


def test_no_case_is_begun_when_the_time_is_up(stopwatch, capsys):
    conduct(stopwatch.of, parse("--minutes", "1e-9"))
    assert "3 of 3 cases not begun: the 1e-09 minutes were up." in capsys.readouterr().out
    assert stopwatch.asked == []


def test_a_missed_target_is_status_1(stopwatch, capsys):
    some = replace(stopwatch.of, cases=["one"])
    with pytest.raises(SystemExit) as stop:
        conduct(some, parse("--check"))
    assert stop.value.code == 1
    assert "MISSED        all there: 1 (here)" in capsys.readouterr().out
    conduct(some, parse())  # nothing was asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "4", "0"], "--tokens: expected positive numbers, got [4, 0]"),
        (["--repeats", "-1"], "--repeats: expected positive numbers, got -1"),
        (["--minutes", "0"], "--minutes: expected positive numbers, got 0.0"),
        (["--device", "cuda"], "--device: expected cpu where PyTorch sees no GPU, got cuda"),
    ],
)
def test_bad_input_is_an_error_that_says_what_is_wrong(capsys, monkeypatch, options, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        parse(*options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
