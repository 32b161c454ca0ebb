"""The section of a report on stress tests: what attacks brought back, as sentences, curves and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_unlearn.report.plots import Line, line_chart
from lightning_unlearn.report.stress_rows import asked, left_out
from lightning_unlearn.report.words import number, percent, set_label, stress_label, stress_rank

Content = Mapping[str, Any]  # of a file of `stress/`, see `lightning_unlearn.attacks.results`
STAGES = {"start": "before", "unlearned": "after", "retrained": "retrained"}
COUNTS = ("steps", "samples")  # of more and more effort: a curve; of the others a map
CHANCE = {"forget/true_above_wrong": 0.5}  # of a score that no knowledge is no 0 of


def section(stress: Mapping[str, Content]) -> dict[str, Any] | None:
    """What the section shows; None where no attack was made."""
    stress = {name: stress[name] for name in sorted(stress, key=stress_rank)}
    found = {name: of for name, of in stress.items() if of.get("curves", {}).get("unlearned")}
    failures = [(stress_label(name), STAGES[model]) for name, of in stress.items() for model in of.get("failed", {})]
    omitted = [(stress_label(name), of["left_out"]) for name, of in stress.items() if of.get("left_out")]
    if not found and not failures and not omitted:
        return None
    return {
        "sentence": sentence(stress),
        "exposed": any((of.get("recovered") or {}).get("verdict") == "exposed" for of in found.values()),
        "rows": [_row(name, content) for name, content in found.items()],
        "plots": [chart(name, of) for name, of in found.items() if of["x"]["name"] in COUNTS],
        "maps": [heat(name, of) for name, of in found.items() if of["x"]["name"] not in COUNTS],
        "failures": failures,
        "omitted": omitted,
        "left_out": [row for name, of in found.items() for row in _left_out(name, of)],
    }


def sentence(stress: Mapping[str, Content]) -> str:
    """How many attacks bring back how much, the strongest first, and which say nothing or not all."""
    return _found(stress) + _untried(stress)


def _found(stress: Mapping[str, Content]) -> str:
    known = {name: of["recovered"] for name, of in stress.items() if of.get("recovered")}
    if not any(of.get("curves", {}).get("unlearned") for of in stress.values()):
        return "No attack could be made."
    if not known:
        return "How much the attacks bring back cannot be told without a starting model that knew the rows."
    exposed = sorted((name for name in known if known[name]["verdict"] == "exposed"), key=lambda n: -known[n]["share"])
    share = percent(next(iter(known.values()))["threshold"])
    attacks = f"{len(known)} attacks" if len(known) > 1 else "one attack"
    if not exposed:
        return f"Under {attacks} the model holds: none surely brings back {share} of what was known.{_beside(known)}"
    worst = known[exposed[0]]
    lead = f"{len(exposed)} of {attacks}" if len(known) > 1 else "the attack"
    some = "bring" if len(exposed) > 1 else "brings"
    where = f"{stress_label(exposed[0]).lower()}, {point(stress[exposed[0]], worst['at'])}"
    return (
        f"The model is exposed: {lead} {some} back {share} or more of what was known, the strongest "
        f"{_share(worst['share'])} of it ({where}).{_beside(known)}"
    )


def _untried(stress: Mapping[str, Content]) -> str:
    """The attacks that were left out, those that failed, and those without a verdict where others have one."""
    known = any(of.get("recovered") for of in stress.values())
    groups = {
        "Left out": [name for name, of in stress.items() if of.get("left_out")],
        "Failed": [name for name, of in stress.items() if of.get("failed")],
        "Not told, as the starting model knew too little": [
            name for name, of in stress.items() if known and not any(map(of.get, ("recovered", "left_out", "failed")))
        ],
    }
    return "".join(
        f" {words}: {', '.join(stress_label(n).lower() for n in names)}." for words, names in groups.items() if names
    )


def _beside(known: Mapping[str, Content]) -> str:
    """What the same attacks do to a model that never knew the rows."""
    shares = [of["retrained"] for of in known.values() if of.get("retrained") is not None]
    if not shares:
        return ""
    return f" In the retrained model they raise what it shows by at most {_share(max(shares))} of that."


def told(content: Content) -> str:
    """What one attack brought back, or why it was not made.

    >>> told({"x": {"name": "steps"}, "recovered": {"verdict": "exposed", "share": 0.5, "at": 10}})
    'exposed: 50% of what was known comes back (steps: 10)'
    >>> told({"left_out": "the rows are too few"})
    'left out: the rows are too few'
    """
    if content.get("left_out"):
        return f"left out: {content['left_out']}"
    recovered = content["recovered"]
    if recovered is None:
        return "how much came back cannot be told without a starting model that knew the rows"
    verdict, share = recovered["verdict"], _share(recovered["share"])
    return f"{verdict}: {share} of what was known comes back ({content['x']['name']}: {recovered['at']})"


def _share(share: float) -> str:
    return "all" if share >= 1 else percent(share) if share > 0 else "nothing"


def point(content: Content, x: Any) -> str:
    """Name of a point for readers.

    >>> [point({"x": {"name": name}}, x) for name, x in (("layer", 3), ("steps", 20), ("steps", 1), ("prompt", "exam"))]
    ['layer 3', '20 steps', '1 step', 'exam']
    """
    if isinstance(x, str):
        return x
    name = content["x"]["name"]
    return f"{name} {x}" if name == "layer" else f"{x} {name.removesuffix('s') if x == 1 else name}"


def chart(name: str, content: Content) -> dict[str, Any]:
    """The judged score of every model against the effort."""
    key = content["judged"]
    lines = [
        Line(stage.capitalize(), stage, [(float(p["x"]), p[key]) for p in content["curves"][model] if key in p])
        for model, stage in STAGES.items()
        if content["curves"].get(model)
    ]
    lines = [line for line in lines if line.points]
    ends = "; ".join(f"{line.name} from {number(line.points[0][1])} to {number(line.points[-1][1])}" for line in lines)
    score, x_name = content["scores"][key], content["x"]["name"]
    plot = line_chart(lines, y_label=score, label=f"{stress_label(name)}: {ends}", unit_range=True, x_label=x_name)
    return {"title": stress_label(name), "svg": plot, "legend": [(line.name, line.css) for line in lines]}


def heat(name: str, content: Content) -> dict[str, Any]:
    """A map of the judged score: a line for each model, a column for each point."""
    key = content["judged"]
    xs = [p["x"] for p in content["curves"]["unlearned"]]
    lines = []
    for model, stage in STAGES.items():
        if content["curves"].get(model):
            values = {p["x"]: p.get(key) for p in content["curves"][model]}
            lines.append((stage.capitalize(), [_cell(values.get(x), CHANCE.get(key, 0.0)) for x in xs]))
    return {
        "title": stress_label(name),
        "score": content["scores"][key],
        "columns": [point(content, x) for x in xs],
        "lines": lines,
    }


def _cell(value: float | None, chance: float) -> tuple[str, float | None]:
    """A value as text, and its strength of colour in [0, 1]."""
    return number(value, 2), None if value is None else min(1.0, max(0.0, (value - chance) / (1 - chance)))


def _row(name: str, content: Content) -> dict[str, Any]:
    """A line of the table: what was shown without and with the attack, and what came back."""
    key, recovered, points = content["judged"], content.get("recovered"), content["curves"]["unlearned"]
    plain = points[0].get(key)
    worst = None if recovered is None else recovered["at"]
    attacked = [_value(content["curves"].get(model, ()), key, worst) for model in ("unlearned", "retrained")]
    return {
        "title": stress_label(name),
        "at": "–" if recovered is None else point(content, worst),
        "cells": [number(value) for value in (plain, *attacked)],
        "asked": asked(content, next((p for p in points if p["x"] == worst), points[0])),
        "share": "–" if recovered is None else percent(recovered["share"]),
        "verdict": "" if recovered is None else recovered["verdict"],
    }


def _value(points: Sequence[Content], key: str, x: Any) -> float | None:
    return next((p.get(key) for p in points if p["x"] == x), None)


def _left_out(name: str, content: Content) -> list[dict[str, str]]:
    """A line for each row that an attack left out: which, why, and of which models at which points."""
    return [
        {
            "title": stress_label(name),
            "row": f"{set_label(of) or of} {index}",
            "why": why,
            "places": "; ".join(
                f"{STAGES[model]}: {', '.join(point(content, x) for x in xs)}" for model, xs in places.items()
            ),
        }
        for (of, index, why), places in left_out(content).items()
    ]
