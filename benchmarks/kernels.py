"""Time and memory of the token statistics against plain PyTorch: `python -m benchmarks.kernels --help`.

One value-and-backward step per measurement, the same inputs for every implementation, implementations taken in turn so
that a busy machine slows all alike. Memory is the peak of live tensors beyond inputs and gradients. One JSON line a
measurement goes to `--output`; a table of ratios is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from unlearn_kernels import linear_token_statistics, token_statistics
from unlearn_kernels.reference import dense_linear_token_statistics, dense_token_statistics
from unlearn_kernels.statistics import FIELDS, NEED_REFERENCE, NOT_DIFFERENTIABLE

OPERATIONS: dict[str, tuple[str, ...]] = {
    "log_prob": ("log_prob",),
    "log_prob+entropy": ("log_prob", "entropy"),
    "uniform_kl": ("uniform_kl",),
    "reference_kl": ("reference_kl",),
    "all": FIELDS,
}
HIDDEN_IMPLEMENTATIONS = {"unlearn_kernels": linear_token_statistics, "pytorch": dense_linear_token_statistics}
LOGITS_IMPLEMENTATIONS = {"unlearn_kernels": token_statistics, "pytorch": dense_token_statistics}


@dataclass(frozen=True)
class Case:
    """One row of the table: an operation on one shape."""

    operation: str
    source: str  # "hidden" or "logits"
    head: str  # "trainable" or "frozen"
    ignored: float  # share of ignored tokens
    tokens: int
    hidden: int
    vocabulary: int
    dtype: str
    device: str


@dataclass(frozen=True)
class Measurement:
    """What one implementation took for a case."""

    implementation: str
    median_seconds: float
    p20_seconds: float
    p80_seconds: float
    peak_bytes: int
    gemm_seconds: float  # one bare product of the head
    threads: int


class PeakMemory(TorchDispatchMode):
    """Tracks the bytes of live tensors made while it is on; `peak` is their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        inputs = {x.untyped_storage()._cdata for x in _tensors((args, kwargs))}
        for x in _tensors(result):
            storage = x.untyped_storage()
            if storage._cdata not in inputs:
                self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: (ref, size) for key, (ref, size) in self.live.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


def _tensors(x: object) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict):
        yield from _tensors(tuple(x.values()))
    elif isinstance(x, (tuple, list)):
        for item in x:
            yield from _tensors(item)


def steps(case: Case) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """A function a implementation that runs value and backward once and returns the gradients."""
    torch.manual_seed(0)
    options = {"dtype": getattr(torch, case.dtype), "device": case.device}
    hidden = torch.randn(case.tokens, case.hidden, **options)
    weight = torch.randn(case.vocabulary, case.hidden, **options) / case.hidden**0.5
    labels = torch.randint(case.vocabulary, (case.tokens,), device=case.device)
    labels[: int(case.tokens * case.ignored)] = -100
    fields = OPERATIONS[case.operation]
    extra: dict[str, object] = {"statistics": fields}
    if case.source == "hidden":
        implementations: dict[str, Callable] = HIDDEN_IMPLEMENTATIONS
        inputs = (hidden.requires_grad_(), weight.requires_grad_(case.head == "trainable"))
        if NEED_REFERENCE & set(fields):
            extra["reference_hidden"] = torch.randn(case.tokens, case.hidden, **options)
    else:
        implementations = LOGITS_IMPLEMENTATIONS
        inputs = ((hidden @ weight.t()).requires_grad_(),)
        if NEED_REFERENCE & set(fields):
            extra["reference_logits"] = torch.randn(case.tokens, case.vocabulary, **options)
    leaves = [x for x in inputs if x.requires_grad]

    def step(implementation: Callable) -> tuple[Tensor, ...]:
        record = implementation(*inputs, labels, **extra)
        loss = sum(getattr(record, name).mean() for name in fields if name not in NOT_DIFFERENTIABLE)
        return torch.autograd.grad(loss, leaves)

    return {name: lambda f=function: step(f) for name, function in implementations.items()}


def seconds(function: Callable[[], object], device: str) -> float:
    """Wall-clock seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(function: Callable[[], tuple[Tensor, ...]], device: str) -> int:
    """Peak memory of one call beyond what it was given and what it returns."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        gradients = function()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with PeakMemory() as memory:
            gradients = function()
        peak = memory.peak
    return peak - sum(g.numel() * g.element_size() for g in gradients)


def gemm_seconds(case: Case, repeats: int) -> float:
    """Median seconds of one product of the head, [N, D] by [D, V]."""
    options = {"dtype": getattr(torch, case.dtype), "device": case.device}
    a, b = torch.randn(case.tokens, case.hidden, **options), torch.randn(case.hidden, case.vocabulary, **options)
    out = torch.empty(case.tokens, case.vocabulary, **options)
    return statistics.median(seconds(lambda: torch.mm(a, b, out=out), case.device) for _ in range(repeats))


def measure(case: Case, repeats: int) -> list[Measurement]:
    """Measure every implementation of a case, in turn, after one call to warm up.

    Args:
        case: what to run.
        repeats: timed calls an implementation.
    """
    functions = steps(case)
    peaks = {name: peak_bytes(function, case.device) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, case.device))
    gemm = gemm_seconds(case, repeats)
    measurements = []
    for name, taken in times.items():
        p20, p50, p80 = torch.quantile(torch.tensor(taken, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.8]).double())
        parts = (float(p50), float(p20), float(p80), peaks[name], gemm, torch.get_num_threads())
        measurements.append(Measurement(name, *parts))
    return measurements


HEADER = (
    f"{'operation':<18}{'from':<8}{'head':<11}{'ignored':>8}{'ours ms [p20 p80]':>24}{'pytorch ms':>12}{'faster':>8}"
)
HEADER += f"{'GEMMs':>7}{'ours MB':>9}{'pytorch MB':>12}{'smaller':>9}"


def table_row(case: Case, measurements: list[Measurement]) -> str:
    """One line: times, their ratio, our time in bare products of the head, memory and its ratio."""
    ours, dense = measurements
    spread = f"{ours.median_seconds * 1e3:.1f} [{ours.p20_seconds * 1e3:.1f} {ours.p80_seconds * 1e3:.1f}]"
    line = f"{case.operation:<18}{case.source:<8}{case.head:<11}{case.ignored:>8.0%}{spread:>24}"
    line += f"{dense.median_seconds * 1e3:>12.1f}{dense.median_seconds / ours.median_seconds:>7.2f}x"
    line += (
        f"{ours.median_seconds / ours.gemm_seconds:>7.1f}{ours.peak_bytes / 1e6:>9.1f}{dense.peak_bytes / 1e6:>12.1f}"
    )
    return line + f"{dense.peak_bytes / max(1, ours.peak_bytes):>8.1f}x"


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """The cases that the command line asks for."""
    shape = (arguments.tokens, arguments.hidden, arguments.vocabulary, arguments.dtype, arguments.device)
    for ignored in arguments.ignored:
        for operation in arguments.operations:
            for head in arguments.heads:
                yield Case(operation, "hidden", head, ignored, *shape)
            if arguments.logits:
                yield Case(operation, "logits", "-", ignored, *shape)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the shape is small unless there is a GPU."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels",
        description="Time and memory of the token statistics against plain PyTorch.",
    )
    parser.add_argument("--tokens", type=int, default=8192 if cuda else 256, help="N (default %(default)s)")
    parser.add_argument("--hidden", type=int, default=4096 if cuda else 256, help="D (default %(default)s)")
    parser.add_argument("--vocabulary", type=int, default=128256 if cuda else 32000, help="V (default %(default)s)")
    parser.add_argument("--dtype", default="bfloat16" if cuda else "float32", help="default %(default)s")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", help="default %(default)s")
    parser.add_argument("--operations", nargs="+", choices=list(OPERATIONS), default=list(OPERATIONS))
    parser.add_argument("--heads", nargs="+", choices=["trainable", "frozen"], default=["trainable", "frozen"])
    parser.add_argument(
        "--ignored", nargs="+", type=float, default=[0.0], help="shares of ignored tokens, such as 0 0.6"
    )
    parser.add_argument("--logits", action="store_true", help="also from logits that exist")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps (default %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--output", type=Path, help="append one JSON line a measurement to this file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark of the command line."""
    arguments = parse(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(
        f"N {arguments.tokens}  D {arguments.hidden}  V {arguments.vocabulary}  {arguments.dtype}  {arguments.device}  "
        f"{torch.get_num_threads()} threads  torch {torch.__version__}"
    )
    print(HEADER)
    for case in cases(arguments):
        measurements = measure(case, arguments.repeats)
        print(table_row(case, measurements), flush=True)
        if arguments.output:
            with arguments.output.open("a") as file:
                file.writelines(json.dumps({**asdict(case), **asdict(m)}) + "\n" for m in measurements)


if __name__ == "__main__":
    main()
