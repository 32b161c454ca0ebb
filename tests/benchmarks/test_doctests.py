"""Examples in docstrings; `benchmarks.compile` needs Triton and has none."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["floor", "measure", "peers", "plots"])
def test_examples(name):
    found = doctest.testmod(importlib.import_module(f"benchmarks.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
