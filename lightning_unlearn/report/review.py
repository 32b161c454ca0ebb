"""Writes `review.html`: one file in which a person reads dialogues with their scores and changes what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from markupsafe import Markup

from lightning_unlearn.evaluation.log import mask
from lightning_unlearn.files import write_whole
from lightning_unlearn.report import page


class ReviewRow(TypedDict):
    """A dialogue on the page.

    Attributes:
        id: what a saved decision names it by.
        source: "file:row" of its rows.
        prompt: what was asked.
        response: what was said.
        scores: by axis, in [0, 1].
        proposed: the decision that follows from the scores.
        decision: the one that counts.
        by_person: whether a person made it.
    """

    id: str
    source: list[str]
    prompt: str
    response: str
    scores: dict[str, float]
    proposed: str
    decision: str
    by_person: bool


def write_review(
    path: Path,
    rows: Sequence[ReviewRow],
    *,
    thresholds: dict[str, float],
    evaluators: Sequence[str],
    redact: bool = False,
) -> Path:
    """Write the page of a review and return its path.

    Args:
        path: the file.
        rows: the dialogues.
        thresholds: "tau" and "tau_low", marked in every score.
        evaluators: what gave the scores, in words.
        redact: mask every text.
    """
    shown: list[dict[str, Any]] = [
        {**row, "prompt": mask(row["prompt"]), "response": mask(row["response"])} if redact else {**row} for row in rows
    ]
    axes = sorted({axis for row in rows for axis in row["scores"]})
    text = page.fill(
        "review.template.html",
        content={"rows": shown, "axes": axes, **thresholds},
        thresholds=thresholds,
        evaluators=evaluators,
        redact=redact,
        review_style=Markup((page.HERE / "review.css").read_text(encoding="utf-8")),
        **page.script("review.js"),
    )
    return write_whole(path, text)
