"""Numbers of each row of a set, of which protocols are made.

A row that could not be evaluated has "failed" and no numbers: it is left out here, and so everywhere. Rows that are
drawn with replacement, for intervals, take numbers that were computed once.

Shapes: B rows of a set, K values of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

from lightning_unlearn.evaluation.log import Sample

Options = ParamSpec("Options")
RowWise = Callable[Concatenate[Sequence[Sample], Options], Tensor]


class Drawn(Sequence[Sample]):
    """Rows drawn from a set, some of them more than once.

    Args:
        samples: the rows of the set.
        chosen: int64 [B], which of them are drawn.
        known: what was computed of the set's rows; shared by all that is drawn from it.
    """

    def __init__(self, samples: Sequence[Sample], chosen: Tensor, known: dict[Any, Any]) -> None:
        self.samples = samples
        self.chosen = chosen
        self.known = known

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, at: Any) -> Any:
        found = self.chosen[at].tolist()
        return [self.samples[row] for row in found] if isinstance(at, slice) else self.samples[found]

    def __iter__(self) -> Iterator[Sample]:
        return (self.samples[row] for row in self.chosen.tolist())

    def once(self, compute: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Return `compute` of the set that they are drawn from, computed once for all that is drawn from it."""
        key = (compute, args, *sorted(options.items()))
        if key not in self.known:
            self.known[key] = compute(self.samples, *args, **options)
        return self.known[key]


def row_wise(compute: RowWise[Options]) -> RowWise[Options]:
    """Let a function of rows, which returns the numbers of each by itself, leave out failed and know `Drawn` rows."""

    @wraps(compute)
    def found(samples: Sequence[Sample], *args: Options.args, **options: Options.kwargs) -> Tensor:
        if isinstance(samples, Drawn):
            return samples.once(compute, *args, **options)[samples.chosen]
        return compute(finished(samples), *args, **options)

    return found


def finished(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the rows that could be evaluated.

    Example:
        >>> finished([{"index": 0}, {"index": 1, "failed": "longer than the model's context"}])
        [{'index': 0}]
    """
    return samples if isinstance(samples, Drawn) else [sample for sample in samples if not sample.get("failed")]


@row_wise
def column(samples: Sequence[Sample], key: str) -> Tensor:
    """Collect one number of each sample: float64 [B].

    Raises:
        ValueError: if a sample lacks it.
    """
    missing = [sample.get("index", i) for i, sample in enumerate(samples) if sample.get(key) is None]
    if missing:
        raise ValueError(f'every sample must hold "{key}", got none in rows {missing[:10]}')
    return torch.tensor([float(sample[key]) for sample in samples], dtype=torch.float64)


@row_wise
def table(samples: Sequence[Sample], key: str) -> Tensor:
    """Collect one list of numbers of each sample: float64 [B, K], filled up with 0 to the longest."""
    rows = [torch.tensor(sample.get(key) or [], dtype=torch.float64) for sample in samples]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def has(samples: Sequence[Sample], *keys: str) -> bool:
    """Tell whether there are samples, every one with all these values, none of them an empty list."""
    if isinstance(samples, Drawn):
        return all(samples.once(_has, key) for key in keys)
    return all(_has(finished(samples), key) for key in keys)


def _has(samples: Sequence[Sample], key: str) -> bool:
    return bool(samples) and all(sample.get(key) not in (None, []) for sample in samples)
