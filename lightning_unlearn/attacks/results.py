"""What an attack found, in a file of the run folder: numbers alone, written whole after every point."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torch import nn

from lightning_unlearn.attacks.base import Attack
from lightning_unlearn.attacks.exam import FAILED, Exam
from lightning_unlearn.attacks.recovery import MODELS, Point, recovery
from lightning_unlearn.callbacks.run_card import options
from lightning_unlearn.files import write_whole
from lightning_unlearn.fingerprint import fingerprint
from lightning_unlearn.processes import from_first, rank
from lightning_unlearn.report.runs import STRESS, read_object


@dataclass
class Results:
    """The points of an attack by model, kept in `stress/<name of the attack>.json` where there is a folder.

    Points of other options, rows or weights than these are measured anew. In a process group every process must make
    it and call it alike; the first alone reads and writes.

    Attributes:
        attack: the attack.
        exam: rows and scores.
        folder: the run folder; None to keep nothing.
        curves: "unlearned", "start", "retrained" -> points in the order of the attack.
        models: the same -> a mark of the model's weights.
        finished: the models of which all points are there.
        failed: the same -> the error that ended the attack; the file holds its class alone, a message may quote rows.
        left_out: why the attack is not made, or "".
    """

    attack: Attack
    exam: Exam
    folder: Path | None = None
    curves: dict[str, list[Point]] = field(default_factory=dict, init=False)
    models: dict[str, str] = field(default_factory=dict, init=False)
    finished: list[str] = field(default_factory=list, init=False)
    failed: dict[str, Exception] = field(default_factory=dict, init=False)
    left_out: str = field(default="", init=False)

    def __post_init__(self) -> None:
        held = from_first(lambda: {} if self.folder is None else read_object(self._file))
        if held.get("about") == self._about():
            self.curves, self.models, self.finished = held["curves"], held["models"], held["finished"]

    def measure(self, name: str, model: nn.Module) -> list[Point]:
        """Return the points of a model, of which those that are in the file are not measured again.

        Args:
            name: "unlearned", "start" or "retrained".
            model: it is not changed.

        Raises:
            ValueError: if no row could be asked, without the attack or at any point of it.
        """
        mark = fingerprint(model)
        known = self.curves.get(name, []) if self.models.get(name) == mark else []
        if known and name in self.finished:
            return known
        self.models[name], self.curves[name] = mark, []
        self.finished = [other for other in self.finished if other != name]
        for at, (x, scores) in enumerate(self.attack.points(model, self.exam)):
            point = known[at] if at < len(known) else {"x": x, **scores()}
            self.curves[name] = [*self.curves[name][:at], point, *known[at + 1 :]]
            if point not in known:
                self.save()
        _check_asked(self.curves[name], self.attack.judged)
        self.finished.append(name)
        self.save()
        return self.curves[name]

    def fail(self, name: str, error: Exception) -> None:
        """Note the error that ended the attack on a model."""
        self.failed[name] = error
        self.save()

    def leave_out(self, why: str) -> None:
        """Note why the attack is not made; what an earlier one found stays."""
        self.left_out = why
        if not read_object(self._file).get("curves"):
            self.save()

    def recovered(self) -> dict[str, Any] | None:
        """See `recovery`."""
        return recovery(self.curves, self.attack.judged)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.folder is not None and rank() == 0:
            write_whole(self._file, json.dumps(self.content(), indent=2) + "\n")

    def content(self) -> dict[str, Any]:
        """Return what the file holds."""
        return {
            "attack": type(self.attack).__name__,
            "options": options(self.attack),
            "x": {"name": self.attack.x_name},
            "scores": self.attack.scores,
            "judged": self.attack.judged,
            "left_out": self.left_out,
            "rows": len(self.exam.forget),
            "curves": {name: self.curves[name] for name in MODELS if name in self.curves},
            "recovered": self.recovered(),
            "finished": self.finished,
            "failed": {name: type(error).__name__ for name, error in self.failed.items()},
            "models": self.models,
            "about": self._about(),
        }

    @property
    def _file(self) -> Path:
        assert self.folder is not None
        return self.folder / STRESS / f"{self.attack.name}.json"

    def _about(self) -> str:
        """Hash what points follow from beside the model: the attack, files that it reads, rows and limits."""
        settings = vars(self.attack)
        files = [Path(value) for value in settings.values() if isinstance(value, str | Path) and Path(value).is_file()]
        contents = [blake2b(file.read_bytes()).hexdigest() for file in files]
        about = [type(self.attack).__name__, settings, contents, self.exam.digest]
        return blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _check_asked(points: list[Point], score: str) -> None:
    plain, *attacked = (score in point for point in points)
    if not (plain and any(attacked)):
        whys = [row["why"] for point in points for row in point.get(FAILED, ())]
        raise ValueError(f"no row could be asked: {whys[0] if whys else 'there is no point of the attack'}")
