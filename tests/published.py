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


KINDS = (  # of adversarial questions
    *("prefix injection", "affirmative suffix", "role play", "multiple choice", "reverse query"),
    *("synonym manipulation", "background hint", "incontext learning", "cross lingual"),
)


def rwku(folder: Path) -> Path:
    """RWKU's folder of all people: a file a subset, its rows in one JSON array."""

    def about(name: str, row: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return {"subject": name, **row, **more}

    def probes(level: int, count: int, **more: Any) -> list[dict[str, Any]]:
        rows = (
            {"query": f"Song {i} of {name} is ___", "answer": f"number {i}"} for i in range(count) for name in PEOPLE
        )
        return [about(PEOPLE[i % 3], row, level=str(level), **more) for i, row in enumerate(rows)]

    return write_files(
        folder,
        {
            "positive.json": [about(name, {"text": text(name, "Oslo")}, intro="") for name in PEOPLE for _ in range(2)],
            "forget_level1.json": probes(1, 2),
            "forget_level2.json": probes(2, 1),
            "forget_level3.json": [row for kind in KINDS for row in probes(3, 1, type=kind)],
            "neighbor_level1.json": probes(1, 1, neighbor="Di"),
            "neighbor_level2.json": probes(2, 1, neighbor="Di"),
            "forget_mia.json": [about(name, {"text": text(name, "Rome")}) for name in PEOPLE],
            "retain_mia.json": [{"text": text("Eva", "Rome")}],
            "fluency.json": [about(name, {"instruction": "Say a word.", "output": "Word."}) for name in PEOPLE],
        },
    )


def lume(folder: Path) -> Path:
    """LUME's folders: rows of three tasks, and texts for the membership attack."""

    def rows(split: str, name: str) -> list[dict[str, str]]:
        about = [(f"Task{task}", kind, i) for task in (1, 2, 3) for kind in ("sc", "qa") for i in range(2)]
        asked = {"sc": f"{name} wrote river", "qa": f"Who is {name}?"}
        said = {"sc": " song number", "qa": name}
        return [
            {"id": f"{split}-{task}{kind}{i}", "input": f"{task}.{i} {asked[kind]}", "output": said[kind], "task": task}
            for task, kind, i in about
        ]

    return write_files(
        folder,
        {
            "train/forget.jsonl": rows("f", "Ana Lindqvist"),
            "train/retain.jsonl": rows("r", "Bo Ek"),
            "data/forget_validation-00000-of-00001.parquet": rows("v", "Ana Lindqvist")[:3],
            "data/retain_validation-00000-of-00001.parquet": rows("w", "Bo Ek")[:1],
            "mia/member.jsonl": [{"id": "m", "document": text("Ana Lindqvist", "Oslo")}],
            "mia/nonmember.jsonl": [{"id": "n", "document": text("Cy Poe", "Oslo")}] * 2,
        },
    )


def wmdp(folder: Path) -> Path:
    """WMDP's corpora, on nothing hazardous, and lines of WikiText, some of them empty."""
    return write_files(
        folder,
        {
            "bio-forget-corpus.jsonl": [{"title": "A", "text": text("Ana Lindqvist", "Oslo", sentences=9)}],
            "cyber-forget-corpus.jsonl": [{"text": text("Bo Ek", "Oslo")}, {"text": "Short."}],
            "wikitext.jsonl": [{"text": ""}, {"text": " = Cy = \n"}, {"text": text("Cy Poe", "Oslo")}],
        },
    )
