"""Examples in docstrings; `benchmarks.compile` needs Triton and has none."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["contenders", "floor", "measure", "peers", "plan", "plots", "step", "step_measure"])
def test_examples(name):
    found = doctest.testmod(importlib.import_module(f"benchmarks.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
