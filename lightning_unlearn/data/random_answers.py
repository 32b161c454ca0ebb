"""Answers that belong to other questions, for objectives that put them in place of what is to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_unlearn.data.answers import AnswerRows
from lightning_unlearn.data.records import Record, RecordError, text_key
from lightning_unlearn.data.tokenization import Encoder

STREAM = 2  # beside the streams of forget and retain rows: draws of one say nothing of the others


class RandomAnswerRows(AnswerRows):
    """Answers of other records, drawn for each row without replacement.

    The choices of a row come in turn, so that it meets another one in every pass until all have come; they depend on
    the seed and the row alone, so that a resumed run meets the same. None is the row's own answer, nor an answer to the
    same question. Answers are compared without regard to case and spacing, and each can be drawn once.

    Args:
        encoder: turns records into tokens.
        records: the records whose questions are asked.
        others: the records whose answers are given.
        choices: how many answers each row meets, at least 1; fewer where there are not as many.
        seed: seed of the draws.

    Raises:
        RecordError: if no answer is left for a row.
    """

    def __init__(
        self, encoder: Encoder, records: Sequence[Record], others: Sequence[Record], *, choices: int = 5, seed: int = 0
    ) -> None:
        super().__init__(encoder, records)
        self.choices = choices
        self.seed = seed
        asked = {text_key(record.question) for record in records if record.question}
        own = {text_key(record.answer) for record in records}
        self._answers: list[str] = []
        self._answered: dict[str, set[int]] = {}  # question -> answers to it, where it is asked
        self._place: dict[str, int] = {}  # answer -> its place, where a row has it
        places: dict[str, int] = {}
        for other in others:
            answer, question = text_key(other.answer), text_key(other.question)
            if answer not in places:
                places[answer] = len(self._answers)
                self._answers.append(other.answer)
            if question in asked:
                self._answered.setdefault(question, set()).add(places[answer])
        self._place = {answer: places[answer] for answer in own if answer in places}
        for record in records:
            if len(self._barred(record)) == len(self._answers):
                raise RecordError(
                    f"{record.source or 'record'}: retain must hold an answer to another question than this row's, "
                    f"got {len(self._answers)} answers, none of them"
                )

    def answer(self, row: int, draw: int) -> str:
        """Return what is said to row `row` in pass `draw`."""
        barred = self._barred(self.records[row])
        count = min(self.choices + len(barred), len(self._answers))
        drawn = np.random.default_rng((self.seed, STREAM, row)).choice(len(self._answers), count, replace=False)
        chosen = [place for place in drawn.tolist() if place not in barred][: self.choices]
        return self._answers[chosen[draw % len(chosen)]]

    def _barred(self, record: Record) -> set[int]:
        """Places of the record's own answer, and of answers to its question."""
        own = self._place.get(text_key(record.answer))
        return self._answered.get(text_key(record.question), set()) | ({own} - {None})
