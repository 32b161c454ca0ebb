"""What an attack is: it asks a model again under harder and harder conditions, and measures what the model knows."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

from torch import nn

from lightning_unlearn.attacks.exam import PROBABILITY, RECALL, Exam, Scores

X = int | str  # where a point lies: a count, or a name
Measurement = tuple[X, Callable[[], Scores]]


class Attack(ABC):
    """Measures knowledge at points of growing effort, the first of which is no attack at all.

    It leaves the model and its mode, and the global random state, as they were. What it finds follows from the model,
    the exam and its own arguments, each an attribute of the same name.

    Attributes:
        x_name: what the points count or name.
        scores: the scores that it measures, with their names for readers.
        judged: the score of them that says how much was recovered.
    """

    x_name: ClassVar[str]
    scores: ClassVar[dict[str, str]] = {RECALL: "ROUGE-L recall", PROBABILITY: "Probability"}

    @property
    def name(self) -> str:
        """What its results are filed under: `layer_probe` for `LayerProbe`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def judged(self) -> str:
        """See the class."""
        return next(iter(self.scores))

    def check(self, exam: Exam) -> None:  # noqa: B027 - most attacks need forget rows and no more
        """Raise a ValueError where the rows of an exam, or its model, lack what the attack needs."""

    @abstractmethod
    def points(self, model: nn.Module, exam: Exam) -> Iterator[Measurement]:
        """Yield every point with the function that measures it, which is only valid until the next one is asked for.

        A point that is known already is not measured again.
        """


def throwaway(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode, with its adapters merged into the weights: what somebody else would get.

    Its parameters are all to be trained.
    """
    copied = copy.deepcopy(model)
    if hasattr(copied, "merge_and_unload"):
        copied = copied.merge_and_unload()
    for parameter in copied.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return copied.eval()
