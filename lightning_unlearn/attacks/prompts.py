"""What attacks share that change nothing but the prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

from torch import nn

from lightning_unlearn.attacks.base import Attack, Measurement
from lightning_unlearn.attacks.exam import Exam
from lightning_unlearn.data.records import Record

PLAIN = "plain"


class PromptAttack(Attack):
    """Asks the same rows in several ways, "plain" first."""

    x_name: ClassVar[str] = "prompt"

    def asked(self, exam: Exam) -> Sequence[Record]:
        """Return the rows as they are; by default the forget rows."""
        return exam.forget

    @abstractmethod
    def variants(self, exam: Exam) -> Mapping[str, Sequence[Record]]:
        """Return the rows as each variant asks them, by its name."""

    def points(self, model: nn.Module, exam: Exam) -> Iterator[Measurement]:
        """See `Attack`."""
        for name, records in {PLAIN: self.asked(exam), **self.variants(exam)}.items():
            yield name, partial(exam.scores, model, records)
