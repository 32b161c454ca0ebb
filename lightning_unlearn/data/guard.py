"""Guards: an instruction, or examples of refusing, before every question. The model stays as it is: nothing is erased.

They are the baselines of inference time that unlearning is compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_unlearn.data.records import Record
from lightning_unlearn.data.templates import Template

Turns = tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Guarded:
    """A template that starts every chat with the same turns; plain text has no chat, and stays as it is.

    Attributes:
        template: what renders the turns.
        turns: a system turn, examples of questions and answers, or both.
    """

    template: Template
    turns: Turns

    @property
    def special_tokens(self) -> bool:
        """See `Template`."""
        return self.template.special_tokens

    @property
    def end_token(self) -> str:
        """See `Template`."""
        return self.template.end_token

    def prompt(self, record: Record, question: str) -> tuple[str, str]:
        """See `Template`."""
        return self.template.prompt(replace(record, messages=(*self.turns, *record.messages)), question)


def guard_turns(guard: str | Path | None) -> Turns:
    """A guard prompt as a system turn (Thaker et al. 2024, "Guardrail Baselines for Unlearning in LLMs").

    Args:
        guard: the instruction, or a file that holds it; None for no turn.

    Raises:
        ValueError: if it is empty, or looks like a file that is not there.
    """
    if guard is None:
        return ()
    named = len(str(guard).split()) == 1 and Path(guard).suffix
    if named and not Path(guard).is_file():
        raise ValueError(f"guard: {guard}: no such file")
    text = Path(guard).read_text(encoding="utf-8") if len(str(guard)) < 256 and Path(guard).is_file() else str(guard)
    if not text.strip():
        raise ValueError(f"guard must hold an instruction, got {str(guard)!r}")
    return ({"role": "system", "content": text.strip()},)


def example_turns(forget: Sequence[Record], retain: Sequence[Record], refusals: Sequence[str], *, count: int) -> Turns:
    """In-context unlearning: forget questions that are refused, then retain questions that are answered.

    After Pawelczyk et al. (ICML 2024), whose forget examples have flipped labels; a question has a refusal instead.

    Args:
        forget: rows that examples are taken from, spread over them.
        retain: likewise; may be empty.
        refusals: taken in turn.
        count: examples of each kind.

    Raises:
        ValueError: if there are fewer forget rows, or no refusal.
    """
    if count < 0 or count > len(forget):
        raise ValueError(f"in_context must be from 0 to the {len(forget)} forget rows, got {count}")
    if count and not refusals:
        raise ValueError("refusals must not be empty with in_context, got none")
    refused = [(row.question, refusals[i % len(refusals)]) for i, row in enumerate(_spread(forget, count))]
    kept = [(row.question, row.answer) for row in _spread(retain, min(count, len(retain)))]
    return as_turns((*refused, *kept))


def as_turns(pairs: Iterable[tuple[str, str]]) -> Turns:
    """Questions with their answers as turns of a chat.

    Example:
        >>> as_turns([("Where?", "Rome.")])
        ({'role': 'user', 'content': 'Where?'}, {'role': 'assistant', 'content': 'Rome.'})
    """
    return tuple(
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    )


def _spread(rows: Sequence[Record], count: int) -> list[Record]:
    return [rows[i * len(rows) // count] for i in range(count)]
