"""Deletes what a run folder still holds of the forgotten data: samples, caches, checkpoints.

Of a discrimination the rows to forget and to review go, with scores, decisions and the page; the rows to retain stay.

What stays: the scores, the curves, the run card (hashes and counts), the settings, the unlearned model, and a report
without texts. Checkpoints go because weights from before the end may still know the data. Files are unlinked, not
overwritten: on a disk that must not be readable later, use encryption.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightning_unlearn.discrimination.folder import FORMAT, HOLDS_WHAT_MUST_GO, INFO, read_info
from lightning_unlearn.files import write_whole
from lightning_unlearn.report import page
from lightning_unlearn.report.runs import BY_STAGE, CARD, GENERAL, METRICS, REPORT, STAGES, read_object, read_run
from lightning_unlearn.report.sequence import evaluated

FILES = ("samples*", "*.ckpt", "*.partial")
FOLDERS = ("checkpoints", "cache", "caches", "*_cache", "*.ckpt", "*.partial")
RUN_FORMAT = "lightning-unlearn run"


@dataclass(frozen=True)
class Removed(os.PathLike):
    """A file that was removed, or would be.

    Attributes:
        path: where it lies; for a symbolic link the link, whose target stays.
        size: in bytes.
    """

    path: Path
    size: int

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return f"{self.path} ({in_words(self.size)})"


def purge(run: str | Path, *, dry_run: bool = False, keep_model: bool = True) -> list[Removed]:
    """Delete samples, caches and checkpoints of a run, and rewrite its report; or rows of a discrimination.

    Nothing outside the folder is touched: links are removed, never followed.

    Args:
        run: the run folder, or the folder of a discrimination, or of a sequence of requests; of the models that a
            sequence left all but the last go too.
        dry_run: delete nothing, only list.
        keep_model: keep `model/`, the unlearned weights.

    Returns:
        What was removed, or would be, file by file.

    Raises:
        ValueError: the path is not the folder of a run or of a discrimination.
    """
    folder = Path(run)
    requests = evaluated(folder)
    if requests:  # of a sequence: models before the last know what later requests forgot
        last = [part for part in requests if (part / "model").is_dir()][-1:] if keep_model else []
        each = [purge(part, dry_run=dry_run, keep_model=part in last) for part in requests]
        return [removed for found in each for removed in found]
    _check(folder)
    found = list(held(folder, keep_model=keep_model))
    if dry_run:
        return found
    _note(folder, found)
    if (folder / REPORT).exists():
        _rewrite_report(folder)
    for removed in found:
        removed.path.unlink()
    _remove_empty(folder, {removed.path.parent for removed in found})
    return found


def held(folder: Path, *, keep_model: bool = True) -> Iterator[Removed]:
    """List the files of a run folder that hold forgotten data or weights that may know it."""
    for base, folders, files in os.walk(folder):  # does not follow links
        here = Path(base)
        parts = here.relative_to(folder).parts
        if keep_model and parts[:1] == ("model",):
            folders.clear()
            continue
        whole = any(_matches(part, FOLDERS) for part in parts) or parts[:1] == ("model",)
        rows = HOLDS_WHAT_MUST_GO if read_info(here) is not None else ()
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*files, *links]):
            inner_report = bool(parts) and name == REPORT
            if whole or inner_report or name in rows or _matches(name, FOLDERS if name in links else FILES):
                yield Removed(here / name, (here / name).lstat().st_size)


def in_words(size: int) -> str:
    """Bytes as a person says them.

    >>> in_words(512), in_words(2048), in_words(3_000_000_000)
    ('512 B', '2.0 kB', '3.0 GB')
    """
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _check(folder: Path) -> None:
    """Only a folder that says itself that it is a run may be touched: by its run card, or by its scores."""
    card, metrics = _json(folder / CARD), _json(folder / METRICS)
    says_so = str(card.get("format", "")).startswith(RUN_FORMAT)
    known = {*STAGES, GENERAL, *BY_STAGE, "test", "substitutes", "settings"}
    says_so = says_so or ("substitutes" in metrics and set(metrics) <= known)
    if not says_so and read_info(folder) is None:
        raise ValueError(f"run: expected a run folder with {CARD} or {METRICS} of a run, got {str(folder)!r}")


def _json(file: Path) -> dict[str, Any]:
    try:
        return read_object(file)
    except ValueError:
        return {}


def _note(folder: Path, found: list[Removed]) -> None:
    """Leave a line about the purge in the run card, and of a discrimination the numbers alone."""
    moment = datetime.now(timezone.utc).isoformat(timespec="seconds")
    purged = {"at": moment, "files": len(found), "bytes": sum(removed.size for removed in found)}
    card = _json(folder / CARD)
    if card and found:
        write_whole(folder / CARD, json.dumps({**card, "purged": purged}, indent=2) + "\n")
    for here in {removed.path.parent for removed in found}:
        if info := read_info(here):
            kept = {"format": FORMAT, "thresholds": info["thresholds"], "rows": info["rows"], "purged": purged}
            write_whole(here / INFO, json.dumps(kept, indent=2) + "\n")


def _rewrite_report(folder: Path) -> None:
    """Before anything is deleted: if this is cut short, the report is the first to hold no texts."""
    run = read_run(folder)
    write_whole(folder / REPORT, page.render(replace(run, samples={}), redact=bool(run.card.get("redacted"))))


def _remove_empty(folder: Path, parents: set[Path]) -> None:
    for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True):
        while parent != folder and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
            parent = parent.parent


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
