"""The section of a report on stress tests: what attacks brought back, as curves, tables and sentences."""

from __future__ import annotations

from typing import Any

from lightning_unlearn.report.words import percent


def told(recovered: dict[str, Any] | None, x_name: str) -> str:
    """What an attack brought back, in a sentence."""
    if recovered is None:
        return "how much came back cannot be told without a starting model that knew the rows"
    verdict, share = recovered["verdict"], recovered["share"]
    where = f"at {x_name} {recovered['at']}"
    if share <= 0:
        return f"{verdict}: nothing of what was known comes back ({where})"
    return f"{verdict}: {percent(share)} of what was known comes back ({where})"
