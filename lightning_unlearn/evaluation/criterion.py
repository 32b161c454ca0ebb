"""One number to rank models by: the highest of a score among models that reach bounds on others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Criterion:
    """What the best model is: say, "forget efficacy at least 0.9, with the highest model utility".

    Attributes:
        maximize: key of the score to be high, which is at least 0 (a lower one counts as 0).
        at_least: key of a score -> its lower bound.
        at_most: key of a score -> its upper bound.

    Example:
        >>> criterion = Criterion("utility", at_least={"efficacy": 0.9})
        >>> criterion({"utility": 0.5, "efficacy": 0.9})
        0.5
        >>> criterion({"utility": 0.75, "efficacy": 0.65})
        -0.25
    """

    maximize: str
    at_least: dict[str, float] = field(default_factory=dict)
    at_most: dict[str, float] = field(default_factory=dict)

    def __call__(self, scores: Mapping[str, float]) -> float:
        """Compute the score where all bounds are reached, else minus how far off they are together.

        So every model that reaches them ranks above all that do not; NaN where a score is NaN.

        Args:
            scores: by key.

        Raises:
            ValueError: if a score is missing.
        """
        self.check(scores)
        off = sum(max(short, 0.0) for short in self._shortfalls(scores))
        return max(scores[self.maximize], 0.0) if off == 0 else -off

    def check(self, known: Collection[str]) -> None:
        """Check that there are the scores that it is made of.

        Raises:
            ValueError: if one is missing.
        """
        absent = [key for key in self.keys if key not in known]
        if absent:
            raise ValueError(f"criterion must name scores of this evaluation, got {absent}; there are: {list(known)}")

    @property
    def keys(self) -> tuple[str, ...]:
        """The scores that it is made of."""
        return (self.maximize, *self.at_least, *self.at_most)

    def _shortfalls(self, scores: Mapping[str, float]) -> Iterator[float]:
        yield from (bound - scores[key] for key, bound in self.at_least.items())
        yield from (scores[key] - bound for key, bound in self.at_most.items())
