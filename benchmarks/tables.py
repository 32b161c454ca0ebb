"""Results as text: the table that is printed, the machine and versions behind it, JSON lines, a Markdown page."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.cases import Case
from benchmarks.floor import Floor
from benchmarks.measure import Measurement, Result
from benchmarks.peers import OURS, PACKAGES, version

COLUMNS = {  # name to width
    "operation": 16,
    "from": 12,
    "head": 9,
    "ignored": 7,
    "N x D x V": 20,
    "implementation": 28,
    "ms [p20 p80]": 25,
    "/ ours": 6,
    "/ floor": 7,
    "extra MB": 8,
    "error: value": 12,
    "d_input": 7,
    "d_weight": 8,
    "note": 4,
}


def row(cells: Sequence[str], columns: Mapping[str, int] = COLUMNS) -> str:
    """A line of a Markdown table whose columns, name to width, line up in a terminal too."""
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, columns.values(), strict=True))
    return f"| {' | '.join(padded)} |"


def header(columns: Mapping[str, int] = COLUMNS) -> str:
    """The first two lines of the table."""
    return f"{row([*columns], columns)}\n|{'|'.join('-' * (width + 2) for width in columns.values())}|"


def rows(results: Sequence[Result]) -> str:
    """The lines of one case."""
    ours = next((r.measurement.median_seconds for r in results if r.measurement.implementation == OURS), None)
    return "\n".join(row(_cells(result, ours)) for result in results)


def _cells(result: Result, ours: float | None) -> list[str]:
    case, floor, m = result.case, result.floor, result.measurement
    first = [case.operation, case.source, case.head, f"{case.ignored:.0%}", case.shape, m.implementation]
    if m.median_seconds is None:
        return [*first, *[""] * 7, m.why_not or ""]
    taken = f"{m.median_seconds * 1e3:.2f} [{m.p20_seconds * 1e3:.2f} {m.p80_seconds * 1e3:.2f}]"
    ratio = "" if ours is None else f"{m.median_seconds / ours:.2f}"
    errors = [f"{m.errors[name]:.1e}" if name in m.errors else "" for name in ("value", "d_input", "d_weight")]
    cells = [taken, ratio, f"{m.median_seconds / floor.seconds:.2f}", f"{m.peak_bytes / 1e6:.1f}", *errors]
    return [*first, *cells, _note(floor, m)]


def _note(floor: Floor, m: Measurement) -> str:
    if floor.moved_bytes is not None:
        rate = floor.moved_bytes / m.median_seconds
        return f"{rate / 1e9:.1f} GB/s, {rate / floor.copy_rate:.0%} of a copy"
    return f"{floor.products:.2f} G, {str(floor.schedule).split(':')[0]}" if m.implementation == OURS else ""


def environment(device: str) -> dict[str, str]:
    """The hardware and the versions of everything in the table."""
    found = {"device": _device(device), "python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda and device == "cuda":
        found["cuda"] = torch.version.cuda
    for package in ("triton", *PACKAGES):
        found[package] = version(package) or "not installed"
    return {**found, "commit": _commit()}


def _device(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()


def append(path: Path, results: Sequence) -> None:
    """Add one JSON line a row."""
    with path.open("a") as file:
        file.writelines(json.dumps(asdict(result)) + "\n" for result in results)


def read(record: Mapping) -> Result:
    """A row from its JSON line."""
    return Result(Case(**record["case"]), Floor(**record["floor"]), Measurement(**record["measurement"]))


def open_records(folder: Path, machine: Mapping[str, str]) -> list[dict]:
    """Make a folder for results and read the JSON lines that are there, of which the first is the machine.

    Raises:
        ValueError: they come from another machine, or from other versions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.jsonl"
    if not path.exists():
        path.write_text(json.dumps(machine) + "\n")
    first, *lines = path.read_text().splitlines()
    if json.loads(first) != machine:
        raise ValueError(f"--output: expected a folder without results or with results of {machine}, got {first}")
    return [json.loads(line) for line in lines]


def by_case(results: Sequence) -> dict:
    """Results in groups of one case."""
    groups: dict = {}
    for result in results:
        groups.setdefault(result.case, []).append(result)
    return groups


def page(table: Sequence[str], machine: Mapping[str, str], command: str, date: str, targets: str) -> str:
    """A table, with what it was measured by and on, as Markdown."""
    about = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "device")
    lines = [f"`{command}`, {date}", "", f"{machine['device']}; {about}", "", *table]
    return "\n".join([*lines, "", targets, ""])
