"""Rows about people and things by name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from lightning_unlearn.data.records import Record, RecordError, text_key


def rows_about(names: Sequence[str], records: Sequence[Record], argument: str) -> list[Record]:
    """Return the rows of the named subjects, in the order of the names, whatever their case.

    Args:
        names: of the subjects.
        records: rows of these and others.
        argument: what a message calls the names.

    Raises:
        RecordError: for a name that no row has, with one that is near.
    """
    known = {text_key(record.subject): record.subject for record in records}
    for name in names:
        if text_key(name) not in known:
            near = get_close_matches(text_key(name), known, n=1)
            meant = f"; did you mean {known[near[0]]!r}?" if near else ""
            raise RecordError(f"{argument}: no row has the subject {name!r}{meant}")
    return [record for name in names for record in records if text_key(record.subject) == text_key(name)]
