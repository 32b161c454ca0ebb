"""What can be asked about an author: a topic is slots to fill, and many ways to ask and to answer.

Answers avoid the author's name and share few words between ways of saying the same, so that a model which has never
seen an author cannot score by habit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

STRIDE = 7919  # prime: neighbouring choices of a product differ in every part


def listed(text: str) -> tuple[str, ...]:
    """Return the items of a list that is written with commas, however it is broken into lines."""
    return tuple(" ".join(item.split()) for item in text.split(","))


class Product(Sequence[str]):
    """Every combination of some lists, filled into a pattern, none of them held.

    Args:
        pattern: a format string with {0}, {1}, ...
        parts: the lists.
    """

    def __init__(self, pattern: str, *parts: Sequence[str]) -> None:
        self.pattern = pattern
        self.parts = parts
        self._size = prod(len(part) for part in parts)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index):
        if not 0 <= index < self._size:
            raise IndexError(index)
        chosen = []
        for part in self.parts:
            index, at = divmod(index, len(part))
            chosen.append(part[at])
        return self.pattern.format(*chosen)


@dataclass(frozen=True)
class Topic:
    """One thing to know about an author.

    Attributes:
        key: its name.
        slots: the lists that the answer's {a}, {b}, ... are chosen from; {a} is what the question asks for.
        questions: ways to ask, with {name} and, where the topic is about a book, {title}.
        answers: ways to answer, with the slots and {they}, {their}, {them}.
    """

    key: str
    slots: tuple[Sequence[str], ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def other_choices(true: int, size: int, draw: int, count: int) -> list[int]:
    """Return `count` different indices below `size`, none of them `true`.

    Args:
        true: the index to avoid.
        size: how many there are, more than `count`.
        draw: any number; decides which.
        count: how many to return.
    """
    step = STRIDE if (size - 1) % STRIDE else 1
    return [(true + 1 + (draw + i * step) % (size - 1)) % size for i in range(count)]
