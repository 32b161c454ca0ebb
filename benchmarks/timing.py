"""Seconds and memory of a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.profiler import ProfilerActivity, profile, record_function

Step = Callable[[], tuple[Tensor, ...]]


class Quantiles(NamedTuple):
    """Seconds a call: the median, and the 20th and 80th percentiles."""

    median: float
    p20: float
    p80: float


def seconds(function: Callable[[], object], device: str) -> float:
    """Wall-clock seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def times(functions: Mapping[str, Callable[[], object]], device: str, repeats: int) -> dict[str, Quantiles]:
    """Time functions that have been called before.

    On a GPU by `triton.testing.do_bench`, which empties the cache before each call; on a CPU in turn, so that a busy
    machine slows all alike.

    Args:
        functions: what to time.
        device: "cuda" or "cpu".
        repeats: timed calls of each, at least.
    """
    if device == "cuda":
        from triton.testing import do_bench

        quantiles = [0.5, 0.2, 0.8]
        spans = {name: ceil(1e3 * repeats * seconds(f, device)) + 10 for name, f in functions.items()}
        found = {name: do_bench(f, warmup=1, rep=spans[name], quantiles=quantiles) for name, f in functions.items()}
        return {name: Quantiles(*(ms / 1e3 for ms in taken)) for name, taken in found.items()}
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            taken[name].append(seconds(function, device))
    places = torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)
    return {name: Quantiles(*torch.tensor(x).double().quantile(places).tolist()) for name, x in taken.items()}


def peak_bytes(step: Step, device: str) -> int:
    """Peak memory of one call beyond what it was given and what it returns.

    On a CPU this is what PyTorch's allocator gave out, as its profiler saw it, compiled code included; scratch that a
    library of matrix products allocates for itself is not.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        returned = step()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with profiler.profile(profile_memory=True, use_kineto=False) as trace:
            returned = step()
        changes = [event for event in trace.kineto_results.events() if event.name() == "[memory]"]
        changes.sort(key=lambda event: event.start_ns())
        peak = max(accumulate((event.nbytes() for event in changes), initial=0))
    return max(0, peak - sum(x.numel() * x.element_size() for x in returned))


def trace_steps(steps: Mapping[str, Step], path: str | None) -> str:
    """Profile one call of each step, write the trace, and return the operators that took the most time.

    Args:
        steps: what to call.
        path: a file that ends in .json or .json.gz, or None for the table alone.
    """
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as trace:
        for name, step in steps.items():
            with record_function(name):
                step()
    if path is not None:
        trace.export_chrome_trace(path)
    return trace.key_averages().table(sort_by=f"self_{'cuda' if cuda else 'cpu'}_time_total", row_limit=15)
