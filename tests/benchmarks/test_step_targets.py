"""Fabricated measurements: what they meet and miss is worked out by hand."""

from dataclasses import replace

import pytest

from benchmarks.step_cases import StepCase
from benchmarks.step_measure import StepMeasurement, StepResult
from benchmarks.step_targets import cpu_targets, gpu_targets

CPU = StepCase("NPO+KL", "issue", "full", False, 4, 0, 4, "tofu", "float32", "cpu")
LARGE = StepCase("NPO+KL", "llama-3.1-8b", "lora", True, 4, 2048, 0, "tofu", "bfloat16", "cuda")
SMALL = StepCase("NPO+KL", "llama-3.2-1b", "lora", False, 32, 0, 4, "tofu", "bfloat16", "cuda")


def rows(case, *, held=10e9, useful=2048, **taken):
    """One row an implementation, of seconds and bytes over the model."""
    names = {"ours": "ours", "wide": "plain to 500", "longest": "plain to longest"}
    return [
        StepResult(case, StepMeasurement(names[name], None, s, s, s, 9999, useful, int(over), int(held), 1.0))
        for name, (s, over) in taken.items()
    ]


def told(outcomes, *words):
    (found,) = [outcome for outcome in outcomes if all(word in outcome.target for word in words)]
    return found.measured if found.measured is None else round(found.measured, 6), found.met


def test_cpu_targets():
    outcomes = cpu_targets(rows(CPU, ours=(1.0, 1e9), wide=(11.5, 6e9), longest=(1.75, 2e9)))
    assert told(outcomes, "NPO+KL", "500 takes") == (11.5, False)
    assert told(outcomes, "NPO+KL", "longest takes >= 1.7") == (1.75, True)
    assert told(outcomes, "NPO+KL", "memory") == (round(1 / 6, 6), True)
    assert told(outcomes, "ME+GD", "longest takes >= 2 ") == (None, None)


@pytest.mark.parametrize("change", [{"data": "fictitious"}, {"rows": 8}, {"model": "vocabulary"}, {"tuning": "lora"}])
def test_other_cases_say_nothing_of_the_cpu_targets(change):
    results = rows(replace(CPU, **change), ours=(9.0, 1e9), wide=(1.0, 1e9))
    assert all(outcome.met is None for outcome in cpu_targets(results))


def test_a_row_without_numbers_counts_for_nothing():
    results = [*rows(CPU, ours=(1.0, 1e9)), StepResult(CPU, StepMeasurement("plain to 500", "out of memory"))]
    assert told(cpu_targets(results), "NPO+KL", "500 takes") == (None, None)
    assert told(cpu_targets(results), "NPO+KL", "memory") == (None, None)


def test_the_large_model_must_fit_one_card():
    outcomes = gpu_targets(rows(LARGE, held=17e9, ours=(1.0, 6.5e9)))
    assert told(outcomes, "peak GB <= 24") == (23.5, True)
    assert told(gpu_targets(rows(LARGE, held=18e9, ours=(1.0, 6.5e9))), "peak GB") == (24.5, False)
    assert told(gpu_targets(rows(LARGE, useful=2047, ours=(1.0, 1e9))), "peak GB") == (None, None)


def test_gpu_targets_take_the_worse_of_both_tunings_and_paddings():
    results = rows(SMALL, ours=(1.0, 3e9), wide=(6.0, 9e9), longest=(2.5, 7e9))
    results += rows(replace(SMALL, tuning="full"), ours=(1.0, 4e9), wide=(4.0, 9e9), longest=(2.1, 7e9))
    outcomes = gpu_targets(results)
    assert told(outcomes, "NPO+KL, 1 B", "500") == (4.0, False)
    assert told(outcomes, "NPO+KL, 1 B", "longest") == (2.1, True)
    assert told(outcomes, "NPO+KL, 1 B", "memory") == (round(4 / 7, 6), False)
