"""What a row of data is, and the checks that every row passes before training.

A record does not know about tokens, prompts or roles. Messages name the file, the row (counted from 1), the field and
the value.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOLDOUT = "holdout"  # an evaluation set: rows that no model has met
CHAT_ROLES = ("system", "user", "assistant")
SHOWN_OVERLAPS = 3
SHOWN_CHARACTERS = 80


class RecordError(ValueError):
    """A source of records that cannot be read, or a row that cannot be used."""


def reason(error: RecordError, record: Record) -> str:
    """Say what is wrong with a record, without the place that the message begins with.

    >>> reason(RecordError("rows:3: too long"), Record("Who?", "Ana.", source="rows:3"))
    'too long'
    """
    return str(error).removeprefix(f"{record.source or 'record'}: ")


@dataclass(frozen=True, slots=True)
class Record:
    """One question and its answer, or one plain text.

    Attributes:
        question: what is asked; "" for plain text.
        answer: the text that is labelled.
        messages: earlier turns of a chat, each with "role" and "content".
        paraphrased_question: the question in other words, or "".
        paraphrased_answer: the answer in other words, or "".
        perturbed_answers: wrong answers in the form of the paraphrased answer.
        subject: the author or entity that the row is about, or "".
        prefill: how what follows the question begins: given with the prompt, and not labelled.
        source: "file:row" for messages, or "".
    """

    question: str
    answer: str
    messages: tuple[dict[str, str], ...] = ()
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    perturbed_answers: tuple[str, ...] = ()
    subject: str = ""
    source: str = ""
    prefill: str = ""

    @property
    def asked(self) -> str:
        """What the answer follows: the question, or the beginning of a plain text."""
        return self.question or self.prefill


def parse_row(row: Any, source: str, *, question_key: str = "question", answer_key: str = "answer") -> Record:
    """Check one row and return its record.

    A row with `question_key` or `answer_key` is a question and an answer, one with "messages" is a chat whose last
    turn is the answer, one with "text" is plain text.

    Args:
        row: the decoded row.
        source: "file:row" for messages.
        question_key: the field that holds the question.
        answer_key: the field that holds the answer.

    Raises:
        RecordError: if the row is no object, or a field is missing, empty or of another type.
    """
    if not isinstance(row, Mapping):
        raise RecordError(f"{source}: a row must be an object with fields, got {shown(row)}")
    earlier: tuple[dict[str, str], ...] = ()
    if question_key in row or answer_key in row:
        question, answer = _text(row, question_key, source), _text(row, answer_key, source)
    elif "messages" in row:
        question, answer, earlier = _chat(row["messages"], source)
    elif "text" in row:
        question, answer = "", _text(row, "text", source)
    else:
        raise RecordError(
            f'{source}: a row must have "{question_key}" and "{answer_key}", or "messages", or "text"; '
            f"got fields {sorted(map(str, row))} (question_key and answer_key choose other names)"
        )
    return Record(
        question=question,
        answer=answer,
        messages=earlier,
        paraphrased_question=_optional_text(row, "paraphrased_question", source),
        paraphrased_answer=_optional_text(row, "paraphrased_answer", source),
        perturbed_answers=_perturbed(row, source),
        subject=_optional_text(row, "subject", source),
        source=source,
    )


def row_key(record: Record) -> str:
    """Return question and answer without regard to case, spacing and Unicode form: equal for rows that say the same."""
    turns = [message["content"] for message in record.messages]
    given = [record.prefill] if record.prefill else []
    return "\0".join(map(text_key, (*turns, record.question, *given, record.answer)))


def text_key(text: str) -> str:
    """Return the text without regard to case, spacing and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


def check_disjoint(
    forget: Sequence[Record], retain: Iterable[Record], *, names: tuple[str, str] = ("forget", "retain")
) -> None:
    """Check that no forget row is also a retain row; or of two other sets of these names.

    Raises:
        RecordError: naming the first few such rows with both sources.
    """
    keys: dict[str, Record] = {}
    for record in forget:
        keys.setdefault(row_key(record), record)
    both = [(keys[key], record) for record in retain if (key := row_key(record)) in keys]
    if not both:
        return
    lines = [f"  {f.source or names[0]} is also {r.source or names[1]}" for f, r in both[:SHOWN_OVERLAPS]]
    more = f"\n  and {len(both) - SHOWN_OVERLAPS} more" if len(both) > SHOWN_OVERLAPS else ""
    first = both[0][0]
    raise RecordError(
        f"{names[0]} and {names[1]} must not share rows, got {len(both)} in both "
        f"(the first: {shown(first.question or first.answer)}):\n" + "\n".join(lines) + more
    )


def shown(value: Any) -> str:
    """Return `value` as it is quoted in messages, cut to one short line."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _text(row: Mapping, field: str, source: str) -> str:
    if field not in row:
        raise RecordError(f'{source}: field "{field}" is missing, got fields {sorted(map(str, row))}')
    value = row[field]
    if not isinstance(value, str):
        raise RecordError(f'{source}: field "{field}" must be a string, got {type(value).__name__} {shown(value)}')
    if not value.strip():
        raise RecordError(f'{source}: field "{field}" must not be empty, got {shown(value)}')
    return value


def _optional_text(row: Mapping, field: str, source: str) -> str:
    return "" if row.get(field) is None else _text(row, field, source)


def _perturbed(row: Mapping, source: str) -> tuple[str, ...]:
    field = "perturbed_answers" if row.get("perturbed_answers") is not None else "perturbed_answer"
    value = row.get(field)
    if value is None:
        return ()
    wrong = [value] if isinstance(value, str) else value
    if not isinstance(wrong, list | tuple):
        raise RecordError(f'{source}: field "{field}" must be a list of strings, got {type(value).__name__}')
    return tuple(_text({f"{field}[{i}]": text}, f"{field}[{i}]", source) for i, text in enumerate(wrong))


def _chat(messages: Any, source: str) -> tuple[str, str, tuple[dict[str, str], ...]]:
    if not isinstance(messages, list | tuple) or len(messages) < 2:
        raise RecordError(f'{source}: field "messages" must be a list of at least two turns, got {shown(messages)}')
    turns = []
    for i, turn in enumerate(messages):
        if not isinstance(turn, Mapping):
            raise RecordError(f'{source}: field "messages[{i}]" must be an object, got {shown(turn)}')
        where = f"{source}: messages[{i}]"
        role = _text(turn, "role", where)
        if role not in CHAT_ROLES:
            raise RecordError(f'{where}: field "role" must be one of {", ".join(CHAT_ROLES)}, got "{role}"')
        turns.append({"role": role, "content": _text(turn, "content", where)})
    last = [turn["role"] for turn in turns[-2:]]
    if last != ["user", "assistant"]:
        raise RecordError(f'{source}: field "messages" must end with a user and an assistant turn, got {last}')
    return turns[-2]["content"], turns[-1]["content"], tuple(turns[:-2])
