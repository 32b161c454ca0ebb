"""Rows that stress tests could not ask, or not under every condition: counted and named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMED = 10  # most rows that the text names; the file of the attack names all

Content = Mapping[str, Any]  # of a file of `stress/`, see `lightning_unlearn.attacks.results`
Row = tuple[str, int, str]  # set, number within it, why


def left_out(content: Content) -> dict[Row, dict[str, list[Any]]]:
    """Where each row is left out: model -> points.

    Example:
        >>> row = {"set": "forget", "index": 3, "why": "too long"}
        >>> left_out({"curves": {"start": [{"x": "plain"}, {"x": "story", "failed": [row]}]}})
        {('forget', 3, 'too long'): {'start': ['story']}}
    """
    found: dict[Row, dict[str, list[Any]]] = {}
    for model, points in content.get("curves", {}).items():
        for point in points:
            for row in point.get("failed", ()):
                places = found.setdefault((row["set"], row["index"], row["why"]), {})
                places.setdefault(model, []).append(point["x"])
    return found


def asked(content: Content, point: Content) -> str:
    """How many of the forget rows were asked at a point, "18 of 20"; a dash where the file does not tell."""
    if "rows" not in content:
        return "–"
    without = {row["index"] for row in point.get("failed", ()) if row["set"] == "forget"}
    return f"{content['rows'] - len(without)} of {content['rows']}"


def told_rows(content: Content) -> str:
    """How many forget rows were asked at every point, and which were not, each with its first reason; "" if all were.

    Example:
        >>> rows = [{"set": "forget", "index": index, "why": "too long"} for index in (3, 7)]
        >>> told_rows({"rows": 20, "curves": {"start": [{"x": "plain"}, {"x": "story", "failed": rows}]}})
        '18 of 20 forget rows asked at every point, left out: forget 3, forget 7 (too long)'
    """
    reasons: dict[tuple[str, int], str] = {}
    for name, index, why in left_out(content):
        reasons.setdefault((name, index), why)
    if not reasons:
        return ""
    groups: dict[str, list[str]] = {}
    for (name, index), why in list(reasons.items())[:NAMED]:
        groups.setdefault(why, []).append(f"{name} {index}")
    named = "; ".join(f"{', '.join(rows)} ({why})" for why, rows in groups.items())
    more = f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    asked = content["rows"] - sum(name == "forget" for name, _ in reasons)
    return f"{asked} of {content['rows']} forget rows asked at every point, left out: {named}{more}"
