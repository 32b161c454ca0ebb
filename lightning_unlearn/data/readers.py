"""Read records from JSON lines, a JSON array, Parquet, the Hugging Face hub, or a saved `datasets` folder.

A source is a path, a hub id ("owner/name", "owner/name:config", "owner/name:config:split"), or rows already in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from lightning_unlearn.data.records import Record, RecordError, parse_row, shown
from lightning_unlearn.usage import naming

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
PARQUET = ".parquet"
SHOWN_FILES = 5
Source = str | PathLike | Iterable[Record | Mapping[str, Any]]


def read_records(
    source: Source,
    *,
    split: str | None = None,
    question_key: str = "question",
    answer_key: str = "answer",
    name: str = "",
) -> list[Record]:
    """Read and check every row of a source.

    Args:
        source: a file of JSON lines, one JSON array or Parquet, a folder saved by `datasets`, a hub id, or rows in
            memory.
        split: split of a hub dataset or a saved folder; "train", or the only one, where None.
        question_key: the field that holds the question.
        answer_key: the field that holds the answer.
        name: the argument that gave the source: messages name it where there is none, and call rows in memory so.

    Raises:
        RecordError: if the source does not exist, holds no rows, or a row cannot be used.
    """
    return [
        row if isinstance(row, Record) else parse_row(row, place, question_key=question_key, answer_key=answer_key)
        for place, row in read_rows(source, split=split, name=name)
    ]


def read_rows(source: Source, *, split: str | None = None, name: str = "") -> list[tuple[str, Any]]:
    """Read every row of a source as it is, with its place, "file:row" counted from 1.

    Args:
        source: as for `read_records`.
        split: as for `read_records`.
        name: as for `read_records`.

    Raises:
        RecordError: if the source does not exist, cannot be decoded, or holds no rows.
    """
    label, rows = _open(source, split, name)
    found = [(f"{label}:{number}", row) for number, row in rows]
    if not found:
        raise RecordError(f"{label}: must hold at least one row, got none")
    return found


def read_lines(path: str | PathLike, what: str, *, name: str = "") -> list[str]:
    """Read texts, one a line; empty lines are left out.

    Args:
        path: the file.
        what: what a message calls a line of it.
        name: the argument that gave the file.

    Raises:
        RecordError: if there is no such file, or nothing in it.
    """
    with naming(name):
        if not Path(path).is_file():
            raise RecordError(f"{path}: no such file")
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    if not any(lines):
        raise RecordError(f"{path}: must hold at least one {what}, got none")
    return [line for line in lines if line]


def _open(source: Source, split: str | None, name: str) -> tuple[str, Iterable[tuple[int, Any]]]:
    if not isinstance(source, str | PathLike):
        return name or "rows", enumerate(source, start=1)
    with naming(name):
        return _found(source, split)


def _found(source: str | PathLike, split: str | None) -> tuple[str, Iterable[tuple[int, Any]]]:
    path = Path(source)
    if path.is_file():
        return str(source), _parquet_rows(path) if path.suffix == PARQUET else _json_rows(path)
    if path.is_dir():
        return _dataset_rows(str(source), None, split, folder=path)
    if path.suffix in (*JSON_SUFFIXES, PARQUET) or path.is_absolute():
        raise RecordError(f"{source}: no such file")
    identifier, config, in_name = (*str(source).split(":"), None, None)[:3]
    return _dataset_rows(str(identifier), config or None, split or in_name or None, folder=None)


def read_subset(data: str | PathLike, subset: str, split: str) -> list[tuple[str, Any]]:
    """Read every row of a split of a benchmark as it is, with its place.

    Args:
        data: the argument of a data module: hub id, or a folder with `subset/split`, or `subset` alone where that has
            one split, as JSON or Parquet (whose name may go on after the split, as in what the hub stores).
        subset: configuration of the dataset; "" for the only one.
        split: of the subset.

    Raises:
        RecordError: if there is no such split, or a row cannot be read.
    """
    folder = Path(data)
    if not folder.is_dir():
        return read_rows(f"{data}:{subset}:{split}", name="data")
    for stem in filter(None, (f"{subset or 'data'}/{split}", subset)):
        names = (*(f"{stem}{suffix}" for suffix in JSON_SUFFIXES), f"{stem}{PARQUET}", f"{stem}-*{PARQUET}")
        files = [file for name in names for file in sorted(folder.glob(name))]
        if files:
            return [row for file in files for row in read_rows(file)]
    existing = sorted({str(file.relative_to(folder)) for file in folder.glob("**/*") if file.is_file()})
    shown_files = ", ".join(existing[:SHOWN_FILES]) + (", ..." if len(existing) > SHOWN_FILES else "")
    what = f'split "{split}"' + (f' of subset "{subset}"' if subset else "")
    raise RecordError(f"data: {data}: no file of {what}, got {shown_files}")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet  # what `datasets` reads with; nothing is copied into a cache

    try:
        yield from enumerate(parquet.read_table(path).to_pylist(), start=1)
    except pyarrow.ArrowInvalid as error:
        raise RecordError(f"{path}: must be Parquet, got {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (row, value); a row of JSON lines is its line."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(1)
            while start.isspace():
                start = file.read(1)
            file.seek(0)
            if start == "[":
                yield from _array_rows(path, file.read())
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _decode(line, f"{path}:{number}")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: must be UTF-8 text, got {error}") from error


def _array_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    try:
        yield from enumerate(json.loads(text), start=1)
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}:{error.lineno}: wrong JSON array, {error.msg} at column {error.colno}") from error


def _decode(line: str, source: str) -> Any:
    try:
        return json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        raise RecordError(
            f"{source}: wrong JSON, {error.msg} at column {error.colno}: {shown(line.strip())}"
        ) from error


def _dataset_rows(
    identifier: str, config: str | None, split: str | None, *, folder: Path | None
) -> tuple[str, Iterable[tuple[int, Any]]]:
    import datasets  # heavy, and only needed here

    saved = folder is not None and ((folder / "state.json").exists() or (folder / "dataset_dict.json").exists())
    try:
        data = datasets.load_from_disk(identifier) if saved else datasets.load_dataset(identifier, config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        what = f'configuration "{config}" of dataset "{identifier}"' if config else f'dataset "{identifier}"'
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecordError(f"{what} could not be loaded (neither a file, a folder nor reachable): {reason}") from error
    label = ":".join(part for part in (identifier, config) if part)
    if isinstance(data, Mapping):
        chosen = split or ("train" if "train" in data else next(iter(data)) if len(data) == 1 else "")
        if chosen not in data:
            raise RecordError(f'{label}: unknown split "{split or "train"}", existing splits: {", ".join(data)}')
        label, data = f"{label}:{chosen}", data[chosen]
    elif split is not None:
        raise RecordError(f'{label}: unknown split "{split}", the folder holds one dataset without splits')
    return label, enumerate(data, start=1)
