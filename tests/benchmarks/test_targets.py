"""Fabricated measurements: what they meet and miss is worked out by hand."""

from dataclasses import replace

import pytest

from benchmarks.cases import Case
from benchmarks.floor import Floor
from benchmarks.measure import Measurement, Result
from benchmarks.targets import cpu_targets, gpu_targets

CPU = Case("uniform_kl", "hidden", "trainable", 0.0, 1024, 512, 128256, "float32", "cpu")
GPU = Case("log_prob", "hidden", "frozen", 0.0, 8192, 4096, 128256, "bfloat16", "cuda")


def rows(case, floor, **seconds):
    """One row an implementation: `peak` bytes default to 1e6 times the seconds' digits before the point."""
    names = {"ours": "unlearn_kernels", "torch": "pytorch", "peer": "quack-kernels"}
    return [
        Result(case, floor, Measurement(names[name], None, s, s, s, int(1e8 * s), {"value": 0, "d_input": error}, 8))
        for name, (s, error) in {k: x if isinstance(x, tuple) else (x, 1e-7) for k, x in seconds.items()}.items()
    ]


def told(outcomes, words):
    (found,) = [outcome for outcome in outcomes if words in outcome.target]
    return found.measured if found.measured is None else round(found.measured, 6), found.met


def test_cpu_targets():
    floor = Floor(2.0, 1e9, "recompute", 2, 1, 1)
    results = rows(CPU, floor, ours=2.4, torch=4.8)  # 1.2 x the floor, half PyTorch's time and memory
    sparse = replace(CPU, ignored=0.6)
    results += rows(sparse, Floor(1.0, 1e9, "recompute"), ours=1.3, torch=4.8)
    outcomes = cpu_targets(results)
    assert told(outcomes, "uniform_kl: time over the floor") == (1.3, False)  # the worse of two
    assert told(outcomes, "uniform_kl: plain PyTorch") == (2.0, True)  # ignored tokens do not count here
    assert told(outcomes, "memory") == (0.5, False)
    assert told(outcomes, "60 %") == (round(2.4 / 1.3, 6), False)
    assert told(outcomes, "reference_kl: plain PyTorch") == (None, None)
    assert "60% ignored" in next(str(x) for x in outcomes if "uniform_kl: time" in x.target)


def test_other_shapes_say_nothing_of_the_cpu_targets():
    results = rows(replace(CPU, tokens=8), Floor(1.0, 1e9, "recompute"), ours=9.0, torch=1.0)
    assert all(outcome.met is None for outcome in cpu_targets(results))
    assert str(cpu_targets([])[0]).startswith("not measured")


def test_a_peer_whose_gradients_are_wrong_is_none():
    once = Floor(1.0, 1e9, "unit gradients", 1, 1, 0)
    results = rows(GPU, once, ours=1.0, peer=(0.1, 0.5), torch=1.9)
    assert told(gpu_targets(results), "one field, no recompute") == (1.9, True)
    assert told(gpu_targets(results), "recompute or several") == (None, None)
    again = replace(once, logits=2.0)
    assert told(gpu_targets(rows(GPU, again, ours=1.0, torch=1.2)), "recompute or several") == (1.2, False)
    assert told(gpu_targets(rows(GPU, again, ours=1.0)), "recompute or several") == (None, None)


def test_fixed_numbers_hold_at_one_shape():
    kl = replace(GPU, operation="reference_kl")
    floor = Floor(0.03, 1e9, "unit gradients", 2, 1, 0)
    outcomes = gpu_targets(rows(kl, floor, ours=0.0359) + rows(replace(kl, tokens=2048), floor, ours=0.05))
    assert told(outcomes, "frozen head, milliseconds") == (35.9, True)
    assert told(outcomes, "trainable head, milliseconds") == (None, None)
    assert told(outcomes, "megabytes") == (5.0, True)


@pytest.mark.parametrize(("vocabulary", "expected"), [(32000, (0.8, False)), (31999, (None, None))])
def test_logits_are_held_against_a_copy(vocabulary, expected):
    case = Case("log_prob", "row sums", "-", 0.0, 4096, 0, vocabulary, "bfloat16", "cuda")
    results = rows(case, Floor(0.8, 1e9, moved_bytes=8), ours=1.0)
    assert told(gpu_targets(results), "copy") == expected


def test_a_row_without_numbers_counts_for_nothing():
    result = Result(CPU, Floor(1.0, 1e9), Measurement("unlearn_kernels", "out of memory"))
    assert all(outcome.met is None for outcome in cpu_targets([result]))
