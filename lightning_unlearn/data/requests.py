"""A sequence of requests to forget, one after the other: which rows go now, which went before, which are still kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_unlearn.data.records import Record, row_key

Rows = dict[str, list[Record]]
EARLIER = "forgotten_"  # and the number of the request: an evaluation set


def must_go(name: str) -> bool:
    """Whether an evaluation set of this name is to be forgotten: "forget", a kind of it, or that of an earlier request.

    >>> must_go("forget"), must_go("forget_question"), must_go("forgotten_2"), must_go("retain")
    (True, True, True, False)
    """
    return name == "forget" or name.startswith(("forget_", EARLIER))


def cut_records(records: Mapping[str, Sequence[Record]], *, rows: int, request: int) -> Rows:
    """Return what a request forgets, and what is to be kept with it: retain rows and the rows of later requests.

    Args:
        records: "forget", the rows of all requests in order, and "retain" where there is any.
        rows: of a request; the last may hold fewer.
        request: its number, from 1.

    Raises:
        ValueError: if there is no such request.
    """
    forget = records["forget"]
    count = -(-len(forget) // rows)
    if not 1 <= request <= count:
        raise ValueError(f"request must be in [1, {count}], of {len(forget)} rows in {rows} a request; got {request}")
    first, last = (request - 1) * rows, request * rows
    kept = [*records.get("retain", ()), *forget[last:]]
    return {"forget": list(forget[first:last])} | ({"retain": kept} if kept else {})


def cut_evaluation(sets: Mapping[str, Sequence[Record]], forget: Sequence[Record], *, rows: int, request: int) -> Rows:
    """Return the sets to evaluate at a request: those of earlier ones are "forgotten_1", "forgotten_2", ...

    Args:
        sets: evaluation sets, "forget" of all requests.
        forget: the rows of all requests in order, to which those of the set "forget" belong by question and answer.
        rows: of a request.
        request: its number, from 1.
    """
    number = {row_key(record): place // rows + 1 for place, record in enumerate(forget)}
    parts: dict[int, list[Record]] = {}
    for record in sets.get("forget", ()):
        parts.setdefault(number.get(row_key(record), 0), []).append(record)
    later = [record for part in sorted(parts) if part > request for record in parts[part]]
    found = {"forget": parts.get(request, []), "retain": [*sets.get("retain", ()), *later]}
    found |= {name: list(records) for name, records in sets.items() if name not in found}
    found |= {f"{EARLIER}{part}": parts[part] for part in sorted(parts) if 0 < part < request}
    return {name: records for name, records in found.items() if records}
