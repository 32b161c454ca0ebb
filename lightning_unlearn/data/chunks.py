"""Long texts as several rows: every token is trained on, whatever the length of a row may be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.tokenization import Encoder


def is_text(record: Record) -> bool:
    """Whether a record is plain text: nothing is asked, and nothing of it is given."""
    return not record.asked


def chunk_rows(encoder: Encoder, records: Iterable[Record]) -> list[TokenRow]:
    """Return texts as rows of at most `encoder.max_length` tokens, in order.

    Args:
        encoder: its tokenizer, its longest row and its end token.
        records: plain texts.
    """
    tokenizer = encoder.tokenizer
    return [
        row
        for record in records
        for row in _cut(
            [*tokenizer(record.answer, add_special_tokens=False, verbose=False).input_ids, encoder.end_id],
            tokenizer.bos_token_id,
            encoder.max_length,
        )
    ]


def _cut(sequence: Sequence[int], bos: int | None, length: int) -> Iterator[TokenRow]:
    """Cut a text so that each token is a target once; without bos its first token has nothing to be predicted from."""
    body = sequence if bos is not None else sequence[1:]
    for start in range(0, len(body), length - 1):
        before = bos if bos is not None else sequence[start]
        row = np.array([before, *body[start : start + length - 1]], dtype=np.int64)
        yield TokenRow(row[:-1], np.arange(len(row) - 1), row[1:])
