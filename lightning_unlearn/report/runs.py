"""Reads a run folder: `run_card.json`, `metrics.json`, `samples.jsonl` and the logged curves. Writes nothing.

Every file but one may be missing: a run that was killed, or has no retrained model to compare with, is still readable.
"""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_unlearn.evaluation.log import DEFAULT_STAGE, SAMPLES, Sample, read_samples

STAGES = ("before", "after", "retrained")
GENERAL = "general_ability"  # part of metrics.json: stage -> "<task>/<metric>" -> value
BY_STAGE = ("intervals", "failed", "missing")  # parts of metrics.json that tell of several stages
CARD, METRICS, REPORT = "run_card.json", "metrics.json", "report.html"
STRESS = "stress"  # folder with a file an attack, see `lightning_unlearn.attacks.results`

Curve = list[tuple[float, float]]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        path: the folder.
        card: `run_card.json`, or an empty dict.
        metrics: stage ("before", "after", "retrained") -> metric key -> value; only the stages that are there.
        substitutes: metric -> name of the lexical measure that stands in for the paper's model, where one does.
        samples: stage -> samples in the order of the file.
        curves: logged name -> points (step, value), by step.
        stress: name of an attack -> what it found, see `lightning_unlearn.attacks.results`.
        intervals: stage -> metric key -> 95 % interval (low, high), where it was computed.
        failed: stage -> rows that could not be evaluated, each with "set", "index" and "why".
        missing: stage -> metric key -> what its computation would have needed.
        evaluation: the settings that the scores depend on.
    """

    path: Path
    card: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    substitutes: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    stress: dict[str, dict[str, Any]] = field(default_factory=dict)
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)
    failed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)

    @property
    def not_erased(self) -> str:
        """Why the scores say nothing of the weights, or ""."""
        return str(self.evaluation.get("not_erased", ""))

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def method(self) -> str:
        """Class name of the objective, or the folder's name where no run card tells it."""
        return str(self.card.get("method", {}).get("class", "")).rpartition(".")[2] or self.name

    def value(self, stage: str, key: str) -> float | None:
        """A metric of a stage, or None where it is absent or not a number."""
        value = self.metrics.get(stage, {}).get(key)
        return value if value is not None and math.isfinite(value) else None

    def interval(self, stage: str, key: str) -> Interval | None:
        """The 95 % interval of a metric of a stage, or None where it was not computed."""
        return self.intervals.get(stage, {}).get(key)


def read_run(path: str | Path) -> Run:
    """Read a run folder.

    Raises:
        ValueError: the path is no folder, holds no run, or one of its JSON files is broken.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"run: expected the folder of a run, got {str(folder)!r}, which is not a folder")
    logs = log_files(folder)
    if not logs and not any((folder / name).is_file() for name in (CARD, METRICS, SAMPLES)):
        raise ValueError(
            f"run: expected a folder with {CARD}, {METRICS}, {SAMPLES} or logs/version_*/metrics.csv, "
            f"got {str(folder)!r}, which holds none of them"
        )
    metrics = read_object(folder / METRICS)
    samples = _by_stage(read_samples(folder)) if (folder / SAMPLES).is_file() else {}
    of_test = metrics.get("after") is None and metrics.get("test") is not None  # a folder of `test` alone
    names = {stage: "test" if of_test and stage == "after" else stage for stage in STAGES}
    scores = {stage: _numbers(metrics[name]) for stage, name in names.items() if isinstance(metrics.get(name), dict)}
    for stage, values in _of_stages(metrics, GENERAL, names).items():
        scores.setdefault(stage, {}).update({f"{GENERAL}/{key}": value for key, value in _numbers(values).items()})
    return Run(
        path=folder,
        card=read_object(folder / CARD),
        metrics=scores,
        substitutes={key: str(name) for key, name in (metrics.get("substitutes") or {}).items() if name},
        samples={stage: samples[name] for stage, name in names.items() if name in samples},
        curves=read_curves(logs),
        stress={file.stem: read_object(file) for file in sorted((folder / STRESS).glob("*.json"))},
        intervals={stage: _pairs(found) for stage, found in _of_stages(metrics, "intervals", names).items()},
        failed=_of_stages(metrics, "failed", names),
        missing=_of_stages(metrics, "missing", names),
        evaluation=metrics.get("settings") or {},
    )


def log_files(folder: Path) -> list[Path]:
    """The curve files of a run, oldest first: every resume writes a version of its own."""

    def version(file: Path) -> int:
        return int(file.parent.name.removeprefix("version_"))

    found = folder.glob("*logs/**/version_*/metrics.csv")
    return sorted((file for file in found if re.fullmatch(r"version_\d+", file.parent.name)), key=version)


def read_curves(files: list[Path]) -> dict[str, Curve]:
    """Merge curve files by step: where two hold the same step and column, the later file wins.

    Lightning writes one row for the losses and another for the evaluation of the same step, each with empty cells.
    """
    merged: dict[str, dict[float, float]] = {}
    for file in files:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                step = _number(row.get("step"))
                for name, cell in row.items():
                    value = _number(cell)
                    if step is not None and value is not None and name not in ("step", None):
                        merged.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in merged.items()}


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object, or an empty one where there is no file.

    Raises:
        ValueError: the file holds something else.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: expected JSON, got something else ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content


def _of_stages(metrics: dict[str, Any], part: str, names: dict[str, str]) -> dict[str, Any]:
    """A part of `metrics.json` that is kept by stage, as far as it is there."""
    content = metrics.get(part) or {}
    return {stage: content[name] for stage, name in names.items() if content.get(name)}


def _pairs(intervals: dict[str, Any]) -> dict[str, Interval]:
    return {key: (float(ends[0]), float(ends[1])) for key, ends in intervals.items() if ends and None not in ends}


def _by_stage(samples: list[Sample]) -> dict[str, list[Sample]]:
    stages: dict[str, list[Sample]] = {}
    for sample in samples:
        stages.setdefault(str(sample.get("stage") or DEFAULT_STAGE), []).append(sample)
    return stages


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, (int, float))}


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
