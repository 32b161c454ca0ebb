"""Other answers to the questions of rows, which become tokens when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.tokenization import Encoder


class AnswerRows(ABC):
    """Companions of rows: each row's question with another answer, which may differ from pass to pass.

    Args:
        encoder: turns records into tokens.
        records: the records whose questions are asked.
    """

    KEPT = 4096  # a loader asks for the rows of a step more than once

    def __init__(self, encoder: Encoder, records: Sequence[Record]) -> None:
        self.encoder = encoder
        self.records = records
        self._made: dict[tuple[int, int], TokenRow] = {}

    @abstractmethod
    def answer(self, row: int, draw: int) -> str:
        """Return what is said to row `row` in pass `draw`, a function of the two alone."""

    def __call__(self, row: int, draw: int) -> TokenRow:
        """Return the tokens of row `row` with the answer of pass `draw`."""
        if (row, draw) not in self._made:
            if len(self._made) >= self.KEPT:
                self._made.clear()
            self._made[row, draw] = self.encoder.row(self.records[row], answer=self.answer(row, draw))
        return self._made[row, draw]
