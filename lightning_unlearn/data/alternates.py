"""Other answers to the questions to forget, from a file: JSON lines {"question", "answer", "alternates": [...]}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_unlearn.data.answers import AnswerRows
from lightning_unlearn.data.readers import read_rows
from lightning_unlearn.data.records import Record, RecordError, parse_row, row_key, shown
from lightning_unlearn.data.tokenization import Encoder


def read_alternates(path: str | Path, records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Return the alternates of each record, one at least, from a file that may hold those of others too.

    Raises:
        RecordError: if there is no such file, a row cannot be used, or a record has no alternate.
    """
    rows = read_rows(path, name="alternates")
    found = {row_key(parse_row(row, source)): _alternates(row, source) for source, row in rows}
    for record in records:
        if row_key(record) not in found:
            raise RecordError(
                f"{path}: must hold alternates of every forget row, got none of {record.source or 'a row'} "
                f"({shown(record.question or record.answer)})"
            )
    return [found[row_key(record)] for record in records]


def _alternates(row: Mapping, source: str) -> tuple[str, ...]:
    value = row.get("alternates")
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise RecordError(f'{source}: field "alternates" must be a list of one text or more, got {shown(value)}')
    return tuple(value)


class AlternateRows(AnswerRows):
    """Alternates as answers, in turn: a row meets another one in every pass.

    Args:
        encoder: turns records into tokens.
        records: the records whose questions are asked.
        alternates: what may be said to each.
    """

    def __init__(self, encoder: Encoder, records: Sequence[Record], alternates: Sequence[Sequence[str]]) -> None:
        super().__init__(encoder, records)
        self.alternates = alternates

    def answer(self, row: int, draw: int) -> str:
        """Return what is said to row `row` in pass `draw`."""
        return self.alternates[row][draw % len(self.alternates[row])]
