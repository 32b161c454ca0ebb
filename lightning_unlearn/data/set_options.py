"""How the rows of an evaluation set are asked, where sets of a benchmark differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_unlearn.data.requests import EARLIER


@dataclass(frozen=True, slots=True)
class SetOptions:
    """What an evaluation does with the rows of a set, beside scoring their answers by likelihood.

    Attributes:
        generate: whether the model answers; without it a row has likelihoods alone.
        max_new_tokens: most tokens of an answer; None for those of the evaluation.
        stop: texts that end an answer; what follows the first of any is dropped.
        clip: judge an answer by as much of the true one as `max_new_tokens` hold.

    Raises:
        ValueError: if `max_new_tokens` is below 1.
    """

    generate: bool = True
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    clip: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")

    def until_stop(self, text: str) -> str:
        """Return the text up to where it ends.

        Example:
            >>> SetOptions(stop=("Question:", "; ")).until_stop("Rome; then Question: who?")
            'Rome'
        """
        return text[: min((text.find(end) for end in self.stop if end in text), default=None)]


LIKELIHOOD_ONLY = SetOptions(generate=False)


def options_of(name: str, given: Mapping[str, SetOptions]) -> SetOptions:
    """Return the options of a set; those of earlier requests have the options of "forget"."""
    return given.get("forget" if name.startswith(EARLIER) else name, SetOptions())
