"""Intervals of scores by the bootstrap: the rows of each set are drawn again and again, and scored like the set itself.

Logs of several models are drawn together: sets of one name and size have the same rows drawn, so that the interval of a
difference between models is that of paired rows. What is computed of a row is computed once, see `rows.Drawn`.

Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from zlib import crc32

import torch

from lightning_unlearn.evaluation.log import Log, Sample
from lightning_unlearn.evaluation.protocols import Scores, evaluated
from lightning_unlearn.evaluation.rows import Drawn

Intervals = dict[str, list[float]]
RESAMPLES = 200


def intervals(
    scores: Callable[..., Scores], *logs: Log | None, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> Intervals:
    """Compute the percentile interval of each score: {key: [low, high]}.

    It tells how the score would vary with other rows of the same kind, the models being the same.

    Args:
        scores: makes scores of logs.
        logs: what it is called with.
        resamples: how often rows are drawn.
        level: share of the draws that the interval holds, in (0, 1).
        seed: of the draws.

    Raises:
        ValueError: for a number out of range.

    Example:
        >>> log = {"forget": [{"probability": 0.25}] * 3}
        >>> intervals(lambda log: {"forget": sum(row["probability"] for row in log["forget"]) / 3}, log)
        {'forget': [0.25, 0.25]}
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    found: dict[str, list[float]] = {}
    for drawn in draws(logs, resamples=resamples, seed=seed):
        for key, value in scores(*drawn).items():
            found.setdefault(key, []).append(value)
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return {key: torch.tensor(values).double().quantile(edges).tolist() for key, values in found.items()}


def difference_intervals(
    scores: Callable[[Log], Scores],
    log: Log,
    earlier: Log,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Compute the interval of how much each score of a log exceeds that of an earlier one, over the rows of both.

    Arguments as of `intervals`. A score that has 0 outside its interval has changed by more than the choice of rows
    explains.

    Example:
        >>> before = {"forget": [{"index": i, "known": i % 2} for i in range(8)]}
        >>> after = {"forget": [{"index": i, "known": i % 2 - 0.5} for i in range(8)]}
        >>> difference_intervals(lambda log: {"known": sum(r["known"] for r in log["forget"]) / 8}, after, before)
        {'known': [-0.5, -0.5]}
    """

    def differences(one: Log, other: Log) -> Scores:
        values, others = scores(one), scores(other)
        return {key: value - others[key] for key, value in values.items() if key in others}

    return intervals(differences, *_shared(log, earlier), resamples=resamples, level=level, seed=seed)


def draws(logs: Sequence[Log | None], *, resamples: int, seed: int) -> Iterator[list[Log | None]]:
    """Yield the logs with the rows of each set drawn with replacement, as many as there are."""
    whole = [None if log is None else evaluated(log) for log in logs]
    known: list[dict] = [{name: {} for name in log or ()} for log in whole]
    for number in range(resamples):
        yield [
            None
            if log is None
            else {name: Drawn(rows, _choose(name, rows, seed, number), cache[name]) for name, rows in log.items()}
            for log, cache in zip(whole, known, strict=True)
        ]


def _choose(name: str, rows: Sequence[Sample], seed: int, number: int) -> torch.Tensor:
    """Which rows a draw has: it follows from the set's name and number of rows, and from the draw's number."""
    generator = torch.Generator().manual_seed(crc32(f"{seed} {number} {name}".encode()))
    return torch.randint(len(rows), (len(rows),), generator=generator)


def _shared(log: Log, other: Log) -> list[Log]:
    """Both logs with the rows that could be evaluated in both."""
    both = [evaluated(one) for one in (log, other)]
    places = [{(name, row["index"]) for name, rows in one.items() for row in rows} for one in both]
    common = places[0] & places[1]
    return [
        evaluated({name: [row for row in rows if (name, row["index"]) in common] for name, rows in one.items()})
        for one in both
    ]
