"""Records into tokens with labels, masked by character offsets.

Counting the tokens of the question to find where the answer starts is wrong wherever tokenisation merges across that
border, and masking the pad token loses the eos wherever the two are the same. Here offsets decide, and rows hold no
padding at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.data.records import Record, RecordError
from lightning_unlearn.data.templates import Rendered, choose_template, render

CHUNK = 2048  # rows handed to the tokenizer at once: its threads are busy, its offsets stay small
SHOW_PROGRESS_FROM = 20_000
Offsets = list[tuple[int, int]]


class Encoder:
    """Turn records into `TokenRow`s and prompts.

    A token is labelled if it holds a character of the answer, or of the space before it; one eos (or the chat
    template's end of turn) is labelled after it. `max_length` counts that end token.

    Args:
        tokenizer: a fast Hugging Face tokenizer with an eos token.
        template: "qa", "chat", "llama2", or a string with "{question}", see `choose_template`.
        max_length: most tokens of a row; what is longer is cut at its end.

    Raises:
        ValueError: for a slow tokenizer, one without eos, an unknown template, or a `max_length` below 2.
    """

    def __init__(self, tokenizer: Any, *, template: str = "qa", max_length: int = 512) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                "tokenizer must be a fast one: labels are masked by character offsets, which slow tokenizers do not "
                f"give; got {type(tokenizer).__name__}"
            )
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"tokenizer must have an eos token, which ends every answer; got {type(tokenizer).__name__}"
            )
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2, got {max_length}")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.template = choose_template(template, tokenizer)
        self.end_id = int(tokenizer.convert_tokens_to_ids(self.template.end_token))
        self._positions = np.arange(max_length)  # rows share it: the positions of a row's targets are a slice

    def row(self, record: Record, *, question: str | None = None, answer: str | None = None) -> TokenRow:
        """Return the tokens and labels of one record.

        Args:
            record: the record.
            question: asked in place of the record's question.
            answer: given in place of the record's answer.

        Raises:
            RecordError: if nothing of the answer is left within `max_length`.
        """
        return self._encode([record], [render(self.template, record, question=question, answer=answer)])[0][0]

    def rows(self, records: Sequence[Record], *, progress: bool | None = None) -> list[TokenRow]:
        """Return the tokens and labels of many records, and warn once if answers were cut.

        Args:
            records: the records.
            progress: show a progress bar; where None, for many rows.

        Raises:
            RecordError: if nothing of an answer is left within `max_length`.
        """
        from tqdm.auto import tqdm

        hidden = len(records) < SHOW_PROGRESS_FROM if progress is None else not progress
        rows: list[TokenRow] = []
        cut = 0
        with tqdm(total=len(records), desc="tokenise", unit="row", disable=hidden) as bar:
            for start in range(0, len(records), CHUNK):
                chunk = records[start : start + CHUNK]
                made, shortened = self._encode(chunk, [render(self.template, record) for record in chunk])
                rows += made
                cut += shortened
                bar.update(len(chunk))
        if cut:
            warnings.warn(f"max_length={self.max_length} cuts the answers of {cut} of {len(rows)} rows", stacklevel=2)
        return rows

    def prompt(self, record: Record, *, question: str | None = None) -> list[int]:
        """Return the token ids to generate an answer from; plain text starts from the bos (or eos) alone.

        Args:
            record: the record.
            question: asked in place of the record's question.
        """
        rendered = render(self.template, record, question=question)
        text = rendered.text[: rendered.answer_start]
        if not text:
            return [self.end_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id]
        encoded = self.tokenizer(
            text, add_special_tokens=self.template.special_tokens, return_offsets_mapping=True, verbose=False
        )
        ids, offsets = self._with_one_bos(record, encoded.input_ids, encoded.offset_mapping)
        last = max(i for i, (_, end) in enumerate(offsets) if end)
        return ids[: last + 1]  # a tokenizer that appends eos must not end the prompt with it

    def _encode(self, records: Sequence[Record], texts: Sequence[Rendered]) -> tuple[list[TokenRow], int]:
        """Return the rows, and how many of them lost a part of their answer."""
        encoded = self.tokenizer(
            [rendered.text for rendered in texts],
            add_special_tokens=self.template.special_tokens,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        tokens = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        rows = [
            self._label(record, rendered, *self._with_one_bos(record, ids, offsets))
            for record, rendered, (ids, offsets) in zip(records, texts, tokens, strict=True)
        ]
        return rows, sum(len(r.input_ids) == self.max_length - 1 and r.targets[-1] != self.end_id for r in rows)

    def _with_one_bos(self, record: Record, ids: list[int], offsets: Offsets) -> tuple[list[int], Offsets]:
        """Drop the second bos of a text that already starts with one; start plain text with one among chats."""
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids, offsets
        if ids[:2] == [bos, bos]:
            return ids[1:], offsets[1:]
        if not record.question and not self.template.special_tokens and ids[:1] != [bos]:
            return [bos, *ids], [(0, 0), *offsets]
        return ids, offsets

    def _label(self, record: Record, rendered: Rendered, ids: list[int], offsets: Offsets) -> TokenRow:
        first = next((i for i, (_, end) in enumerate(offsets) if end > rendered.answer_start), len(ids))
        stop = next((i for i in range(len(ids), first, -1) if offsets[i - 1][1] > rendered.answer_start), first)
        if first == stop or first >= self.max_length:
            raise RecordError(
                f"{record.source or 'record'}: max_length={self.max_length} cuts off the whole answer: "
                f"its first token is number {first + 1} (raise max_length, or leave the row out)"
            )
        sequence = np.array([*ids[:stop], self.end_id][: self.max_length], dtype=np.int64)
        first = max(first, 1)  # the first token of a sequence has nothing to be predicted from
        return TokenRow(sequence[:-1], self._positions[first - 1 : len(sequence) - 1], sequence[first:])
