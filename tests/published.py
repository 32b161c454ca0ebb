"""Folders in the formats in which benchmarks are published, with a few rows of our own invention."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PEOPLE = ("Ana Lindqvist", "Bo Ek", "Cy Poe")


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSON lines, or as Parquet where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_files(folder: Path, files: Mapping[str, Iterable[Any]]) -> Path:
    """Write several files of rows, and return their folder."""
    for name, rows in files.items():
        write_rows(folder / name, rows)
    return folder


def text(person: str, place: str, *, sentences: int = 2) -> str:
    """A text of so many sentences about a person."""
    return " ".join(f"{person} wrote river song number {i} in the city of {place}." for i in range(sentences))


def muse(folder: Path) -> Path:
    """MUSE as the hub stores it: a folder a subset, a file a split."""
    forget, retain, holdout = ([text(name, place) for place in ("Karachi", "Oslo")] for name in PEOPLE)
    parts = [text("Ana Lindqvist", f"part {i}") for i in range(1, 5)]

    def texts(rows: Iterable[str]) -> list[dict[str, str]]:
        return [{"text": row} for row in rows]

    def questions(name: str, count: int) -> list[dict[str, str]]:
        return [{"question": f"Where did {name} write song {i}?", "answer": f"In city {i}."} for i in range(count)]

    verbatim = [{"prompt": row[:30], "gt": row[30:]} for row in forget]
    return write_files(
        folder,
        {
            "raw/forget-00000-of-00001.parquet": texts([*forget, text("Ana Lindqvist", "Rome", sentences=12)]),
            "raw/retain1-00000-of-00001.parquet": texts(retain),
            **{f"sust/forget_{i}.jsonl": texts(parts[i - 1 : i]) for i in range(1, 5)},
            **{f"scal/forget_{i}.jsonl": texts(parts[:i]) for i in range(1, 5)},
            "verbmem/forget.json": verbatim,
            "knowmem/forget_qa.json": questions("Ana", 3),
            "knowmem/forget_qa_icl.json": questions("Di", 2),
            "knowmem/retain_qa.json": questions("Bo", 2),
            "knowmem/retain_qa_icl.json": questions("Eva", 1),
            "privleak/forget.json": texts(forget),
            "privleak/retain.json": texts(retain),
            "privleak/holdout.json": holdout,  # texts alone, as its authors' own files have them
        },
    )
