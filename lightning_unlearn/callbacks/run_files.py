"""`metrics.json` and `samples.jsonl` of a run folder, as the callbacks that evaluate keep them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lightning_unlearn.evaluation import lume
from lightning_unlearn.evaluation.log import SAMPLES, Sample, read_samples, redact
from lightning_unlearn.files import write_whole
from lightning_unlearn.json_lines import append_lines, write_lines
from lightning_unlearn.report.runs import BY_STAGE, GENERAL

METRICS = "metrics.json"
STAGES = ("before", "after", "retrained")


class RunFiles:
    """`metrics.json` and `samples.jsonl` of a run: written by rank 0 alone, read alike by all."""

    def __init__(self, trainer: Trainer) -> None:
        self.strategy = trainer.strategy
        self.writes = trainer.is_global_zero
        self.folder = Path(trainer.default_root_dir)

    def clear(self, *, keep: str) -> None:
        """Delete what an earlier fit left, but for the samples of a stage."""
        self.drop(lambda sample: sample.get("stage") != keep)
        if self.writes:
            (self.folder / METRICS).unlink(missing_ok=True)

    def samples(self, stage: str) -> list[Sample]:
        """Return the stage's samples, the same on every rank."""
        found = [sample for sample in self._all() if sample.get("stage") == stage] if self.writes else []
        return self.strategy.broadcast(found)

    def append(self, samples: Sequence[Sample], *, masked: bool) -> None:
        """Add samples, their texts masked on request."""
        if self.writes:
            append_lines([redact(sample) if masked else sample for sample in samples], self.folder / SAMPLES)

    def drop(self, unwanted: Callable[[Sample], bool]) -> None:
        """Delete the samples of which `unwanted(sample)` is true."""
        if self.writes:
            samples = self._all()
            kept = [sample for sample in samples if not unwanted(sample)]
            if not kept:
                (self.folder / SAMPLES).unlink(missing_ok=True)
            elif len(kept) < len(samples):
                write_lines(kept, self.folder / SAMPLES)

    def metrics(self) -> dict[str, Any]:
        """Return `metrics.json`, the same on every rank; an empty dict where there is none."""
        return self.strategy.broadcast(self._metrics() if self.writes else {})

    def update(self, **parts: Any) -> None:
        """Replace parts of `metrics.json`, of some the given stages; the file changes at once or not at all.

        A score that needs two parts is made when the second of them comes, in either order.
        """
        if self.writes:
            held = {**dict.fromkeys(STAGES), **self._metrics()}
            merged = {name: {**held.get(name, {}), **parts[name]} for name in BY_STAGE if name in parts}
            content = _with_combined({**held, **parts, **merged})
            write_whole(self.folder / METRICS, json.dumps(content, indent=2) + "\n")

    def _metrics(self) -> dict[str, Any]:
        file = self.folder / METRICS
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def _all(self) -> list[Sample]:
        file = self.folder / SAMPLES
        return read_samples(file) if file.exists() else []


def _with_combined(metrics: dict[str, Any]) -> dict[str, Any]:
    """Add the scores that are made of a stage's own and of its general ability."""
    scored = {name: found for name, found in (metrics.get(GENERAL) or {}).items() if metrics.get(name)}
    return {**metrics, **{name: metrics[name] | lume.with_abilities(metrics[name], of) for name, of in scored.items()}}
