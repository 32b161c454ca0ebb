"""Membership attacks of a report: how well each tells the forget rows from rows that no model has met."""

from __future__ import annotations

from typing import Any

from lightning_unlearn.report.dots import DotRow, dot_plot
from lightning_unlearn.report.runs import STAGES, Run
from lightning_unlearn.report.words import ATTACKS, attack_label, attack_name, number

PREFIX = "privacy/"
AUC = "_auc"
CHANCE = 0.5


def membership(run: Run) -> dict[str, Any] | None:
    """The plot of the area under the ROC curve of every attack by stage, None where no attack was made."""
    present = {key for values in run.metrics.values() for key in values}
    names = [attack_name(key) for key in present if key.startswith(PREFIX) and key.endswith(AUC)]
    ordered = sorted(names, key=lambda name: ([*ATTACKS, name].index(name), name))
    rows = [row for row in (_row(run, name) for name in ordered) if row.values]
    if not rows:
        return None
    told = "; ".join(
        f"{row.name}: " + ", ".join(f"{stage} {number(value)}" for stage, value in row.values.items()) for row in rows
    )
    plot = dot_plot(rows, x_label="area under the ROC curve", label=f"Membership attacks. {told}", middle=CHANCE)
    return {"svg": plot, "stages": [stage for stage in STAGES if any(stage in row.values for row in rows)]}


def _row(run: Run, name: str) -> DotRow:
    key = f"{PREFIX}{name}{AUC}"
    values = {stage: value for stage in STAGES if (value := run.value(stage, key)) is not None}
    intervals = {stage: ends for stage in values if (ends := run.interval(stage, key))}
    return DotRow(attack_label(name), values, intervals)
