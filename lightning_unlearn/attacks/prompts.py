"""What attacks share that change nothing but the prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

from torch import nn

from lightning_unlearn.attacks.base import Attack, Measurement
from lightning_unlearn.attacks.exam import Asked, Exam

PLAIN = "plain"


class PromptAttack(Attack):
    """Asks the same rows in several ways, "plain" first."""

    x_name: ClassVar[str] = "prompt"

    def asked(self, exam: Exam) -> Sequence[Asked]:
        """Return the forget rows as they are, or why one is not asked."""
        return exam.forget

    @abstractmethod
    def variants(self, exam: Exam) -> Mapping[str, Sequence[Asked]]:
        """Return the forget rows as each variant asks them, or why it cannot, by its name."""

    def points(self, model: nn.Module, exam: Exam) -> Iterator[Measurement]:
        """See `Attack`."""
        for name, rows in {PLAIN: self.asked(exam), **self.variants(exam)}.items():
            yield name, partial(exam.scores, model, rows)
