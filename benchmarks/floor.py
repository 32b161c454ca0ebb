"""The least that a case can take: bare matrix products, or a copy of as many bytes, measured in the same run.

Shapes: n tokens that count, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch

from benchmarks.cases import Case, Problem
from benchmarks.timing import times
from unlearn_kernels import linear_token_statistics
from unlearn_kernels.head import Factor, logit_dtype, product
from unlearn_kernels.schedule import Schedule
from unlearn_kernels.statistics import REFERENCE_GRADIENT

WIDTHS = (1024, 2048, 4096, 16384, 65536)  # slices of the vocabulary
HEIGHTS = (128, 512, 2048)  # blocks of tokens
REPEATS = 3


@dataclass(frozen=True)
class Floor:
    """The least seconds of a case, by our schedule.

    Attributes:
        seconds: what the products take, or the reads and writes.
        copy_rate: bytes a second that a copy of a large tensor reads and writes.
        schedule: our schedule of a case from hidden states, in words.
        logits: products [n, D] by [D, V] that form logits.
        hidden: products [n, V] by [V, D].
        weight: products [V, n] by [n, D].
        moved_bytes: bytes of logits that a case from logits reads and writes.
    """

    seconds: float
    copy_rate: float
    schedule: str | None = None
    logits: float = 0.0
    hidden: float = 0.0
    weight: float = 0.0
    moved_bytes: int | None = None

    @property
    def products(self) -> float:
        """Products of the head in total."""
        return self.logits + self.hidden + self.weight


def floor(problem: Problem) -> Floor:
    """The floor of a case."""
    case = problem.case
    rate = copy_rate(case.device)
    if case.source != "hidden":
        moved = moved_bytes(case, problem.inputs[0].element_size())
        return Floor(moved / rate, rate, moved_bytes=moved)
    found: list[Schedule] = []
    options = {**problem.reference, "explain": found.append}
    linear_token_statistics(*problem.inputs, problem.labels, case.fields, **options)
    operand = Factor(*problem.inputs, None, logit_dtype(*problem.inputs)).operand_dtype
    counts = {kind: float(getattr(found[0], kind)) for kind in ("logits", "hidden", "weight")}
    return Floor(product_floor(counts, case, operand), rate, str(found[0]), **counts)


def product_floor(counts: dict[str, float], case: Case, operand: torch.dtype) -> float:
    """Seconds of so many products of each kind, by the fastest way of slicing each."""
    shape = (case.kept, case.hidden, case.vocabulary)
    return sum(count * product_seconds(kind, *shape, operand, case.device) for kind, count in counts.items() if count)


def moved_bytes(case: Case, element: int) -> int:
    """Bytes of logits that our passes read and write: read for the sums, read again, the gradient written.

    >>> moved_bytes(Case("log_prob", "logits", "-", 0.5, 10, 1, 100, "float32", "cpu"), 4)  # 5 rows left out are zeroed
    8000
    """
    sums = 1 + case.needs_reference
    gradient = 2 + (not REFERENCE_GRADIENT.isdisjoint(case.fields))
    passes = {"row sums": sums, "row gradient": gradient}.get(case.source, sums + gradient)
    zeroed = 0 if case.source == "row sums" else case.tokens - case.kept
    return (passes * case.kept + zeroed) * case.vocabulary * element


@cache
def copy_rate(device: str) -> float:
    """Bytes a second that are read and written when a tensor far larger than any cache is copied."""
    source = torch.ones(2**28 if device == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / _median(lambda: target.copy_(source), device)


@cache
def product_seconds(kind: str, tokens: int, hidden: int, vocabulary: int, operand: torch.dtype, device: str) -> float:
    """Seconds of one product of the head by its fastest slicing.

    Args:
        kind: "logits", "hidden" or "weight".
        tokens: n.
        hidden: D.
        vocabulary: V.
        operand: dtype of the factors; logits and the gradient of the hidden states are float32, and the head's
            gradient has the dtype of the factors.
        device: "cuda" or "cpu".
    """
    x = torch.randn(tokens, hidden, device=device).to(operand)
    w = torch.randn(vocabulary, hidden, device=device).to(operand)
    slicings = [(tokens, vocabulary)]
    slicings += [(tokens, width) for width in WIDTHS if width < vocabulary]
    slicings += [(height, vocabulary) for height in HEIGHTS if height < tokens]
    return min(_sliced_seconds(kind, x, w, rows, columns) for rows, columns in slicings)


def _sliced_seconds(kind: str, x: torch.Tensor, w: torch.Tensor, rows: int, columns: int) -> float:
    """Seconds of one product in tiles of so many rows and columns, each written over the last."""
    wide = logit_dtype(x, w)
    tile = torch.zeros(rows, columns, dtype=wide if kind == "logits" else x.dtype, device=x.device)
    out = torch.empty(
        x.shape if kind == "hidden" else w.shape, dtype=wide if kind == "hidden" else x.dtype, device=x.device
    )

    def run() -> None:
        for some, part in _tiles(len(x), len(w), rows, columns):
            z = tile[: some.stop - some.start, : part.stop - part.start]
            if kind == "logits":
                product(x[some], w[part].t(), z)
            elif kind == "hidden":
                product(z, w[part], out[some])
            else:
                product(z.t(), x[some], out[part])

    run()
    return _median(run, x.device.type)


def _tiles(tokens: int, vocabulary: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    for start in range(0, vocabulary, columns):
        for first in range(0, tokens, rows):
            yield slice(first, min(first + rows, tokens)), slice(start, min(start + columns, vocabulary))


def _median(function: Callable[[], object], device: str) -> float:
    return times({"": function}, device, REPEATS)[""].median
