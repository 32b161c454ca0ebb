"""Help before a question: other rows that were to be forgotten, or the first words of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lightning_unlearn.attacks.exam import Asked, Exam
from lightning_unlearn.attacks.prompts import PromptAttack
from lightning_unlearn.data.guard import as_turns
from lightning_unlearn.data.records import Record


class InContextHints(PromptAttack):
    """Puts other forget rows with their answers before each question, or says how the answer begins.

    The words that are given away are not scored: the answer that counts is the rest.

    Args:
        examples: how many other rows come before the question, a point for each; those about the same subject first.
        words: how many words of the answer are given, a point for each; rows with answers that are no longer are left
            out of it, and named.

    Raises:
        ValueError: for a number below 1, or no number at all.
    """

    def __init__(self, *, examples: Sequence[int] = (1, 4), words: Sequence[int] = (2, 5)) -> None:
        for name, counts in (("examples", examples), ("words", words)):
            if not all(count >= 1 for count in counts):
                raise ValueError(f"{name} must be at least 1 each, got {list(counts)}")
        if not examples and not words:
            raise ValueError("examples and words must hold a number between them, got [] and []")
        self.examples = list(examples)
        self.words = list(words)

    def check(self, exam: Exam) -> None:
        """See `Attack`.

        Raises:
            ValueError: for too few rows for the examples, or where only words are given and no answer is long enough.
        """
        if self.examples and max(self.examples) >= len(exam.forget):
            raise ValueError(f"examples must be fewer than the {len(exam.forget)} forget rows, got {self.examples}")
        longest = max(len(record.answer.split()) for record in exam.forget)
        if not self.examples and min(self.words) >= longest:
            raise ValueError(f"words must be fewer than the longest answer's, {longest}, got {self.words}")

    def variants(self, exam: Exam) -> Mapping[str, Sequence[Asked]]:
        """See `PromptAttack`."""
        found: dict[str, Sequence[Asked]] = {
            f"{count} example{'s' * (count > 1)}": [with_examples(r, exam.forget, count) for r in exam.forget]
            for count in self.examples
        }
        for count in self.words:
            short = f"its answer has no more than {count} words"
            found[f"first {count} words"] = [
                with_beginning(r, count) if len(r.answer.split()) > count else short for r in exam.forget
            ]
        return found


def with_examples(record: Record, rows: Sequence[Record], count: int) -> Record:
    """Return the record after `count` other rows, as earlier turns; those about its subject come first."""
    others = sorted((row for row in rows if row is not record), key=lambda row: row.subject != record.subject)
    said = as_turns((row.question, row.answer) for row in others[:count])
    return replace(record, messages=(*said, *record.messages))


def with_beginning(record: Record, count: int) -> Record:
    """Return the record with the first words of its answer in the question, and the rest as its answer.

    Example:
        >>> with_beginning(Record("Where?", "In the old town of Bern."), 3).question
        'Where? The answer begins with "In the old".'
    """
    words = record.answer.split()
    given, rest = " ".join(words[:count]), " ".join(words[count:])
    return replace(record, question=f'{record.question} The answer begins with "{given}".', answer=rest)
