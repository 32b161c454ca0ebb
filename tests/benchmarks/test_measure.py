import math
from dataclasses import replace

import pytest
import torch

from benchmarks import measure as module
from benchmarks.cases import Case
from benchmarks.floor import Floor
from benchmarks.measure import error_tokens, measure, relative_errors
from benchmarks.peers import Implementation, pytorch

CASE = Case("log_prob+entropy", "hidden", "trainable", 0.5, 48, 8, 400, "float32", "cpu")


@pytest.fixture(autouse=True)
def _no_floor(monkeypatch):
    monkeypatch.setattr(module, "floor", lambda problem: Floor(1.0, 1e9, "recompute"))


def broken(problem):
    raise RuntimeError("no kernel image\nis available")


def overwriting(problem):
    (logits,) = problem.inputs
    values = pytorch(problem)
    with torch.no_grad():
        logits.detach().zero_()
    return values


def use(monkeypatch, *implementations):
    monkeypatch.setattr(module, "candidates", lambda problem, names: implementations)


def test_rows_of_what_runs_and_of_what_does_not(monkeypatch):
    served = {("hidden", "log_prob+entropy"): broken}
    use(monkeypatch, Implementation("plain", None, _only(pytorch)), Implementation("broken", None, served))
    results, steps = measure(CASE, (), 2)
    plain, failed = (result.measurement for result in results)
    assert 0 < plain.p20_seconds <= plain.median_seconds <= plain.p80_seconds
    assert plain.peak_bytes > 0
    assert plain.errors.keys() == {"value", "d_input", "d_weight"}
    assert all(0 < error < 1e-5 for error in plain.errors.values())
    assert (failed.why_not, failed.median_seconds) == ("RuntimeError: no kernel image", None)
    assert list(steps) == ["plain"]


def _only(function):
    return {("hidden", "log_prob+entropy"): function}


def test_what_overwrites_logits_gets_its_own(monkeypatch):
    case = replace(CASE, source="logits", head="-", hidden=0)
    served = {("logits", "log_prob+entropy"): overwriting}
    plain = Implementation("plain", None, {("logits", "log_prob+entropy"): pytorch})
    use(monkeypatch, Implementation("overwriting", None, served, in_place=True), plain)
    results, _ = measure(case, (), 1)
    assert results[1].measurement.errors["d_input"] < 1e-5


def test_a_wrong_gradient_shows(monkeypatch):
    use(monkeypatch, Implementation("wrong", None, _only(lambda problem: tuple(2 * x for x in pytorch(problem)))))
    (result,), _ = measure(CASE, (), 1)
    assert all(math.isclose(error, 1, rel_tol=1e-4) for error in result.measurement.errors.values())


def test_errors_are_measured_on_few_tokens():
    assert error_tokens(CASE) == 48
    assert error_tokens(replace(CASE, tokens=8192, vocabulary=256000)) == 32
    assert error_tokens(replace(CASE, tokens=8192, vocabulary=2**30)) == 8


def test_the_worst_value_counts():
    found, truth = torch.tensor([1.0, 2.2]), torch.tensor([1.0, 2.0])
    assert math.isclose(relative_errors({"value": found}, {"value": truth})["value"], 0.1, rel_tol=1e-5)
