"""`lightning-unlearn discriminate`: find in a file of dialogues what is to be forgotten.

Evaluators score every dialogue on axes of hazard; thresholds share the rows out to `forget.jsonl`, `retain.jsonl` and
`review.jsonl`; a person changes what they like in `review.html`, and the decisions are applied without scoring again.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_unlearn import evaluators as evaluator_package
from lightning_unlearn.discrimination.decisions import FORGET, RETAIN, REVIEW, Thresholds, merged, read_decisions
from lightning_unlearn.discrimination.folder import DECISIONS, PAGE, SCORES, Info, open_folder
from lightning_unlearn.discrimination.rows import Row, check, read_dialogues
from lightning_unlearn.discrimination.scoring import ScoreFile, evaluator_key
from lightning_unlearn.discrimination.verdicts import Verdict, judge, write_rows
from lightning_unlearn.evaluators.base import Evaluator
from lightning_unlearn.files import write_whole
from lightning_unlearn.function_cli import read_options, repeatable
from lightning_unlearn.report.review import ReviewRow, write_review


def discriminate(
    source: str | Path | list,
    *,
    output: str | Path,
    evaluator: Evaluator | list[Evaluator] | None = None,
    tau: float | None = None,
    tau_low: float | None = None,
    decisions: str | Path | None = None,
    question_key: str = "question",
    answer_key: str = "answer",
    batch_size: int = 64,
    redact: bool | None = None,
) -> dict[str, int]:
    """Score every row, and write what to forget, what to retain, and what a person should look at.

    Args:
        source: JSON lines, a JSON array, a folder saved by `datasets`, or a hub id.
        output: the folder to write, or one of an earlier discrimination: it keeps its scores and decisions.
        evaluator: what scores the rows; the largest score of an axis counts. Where none is given, the scores that the
            folder holds count.
        tau: a score of this much on any axis is to be forgotten; by default as before in this folder, first 0.5.
        tau_low: scores of at most this much on all axes are retained; by default as before, first 0.2.
        decisions: a file of decisions that the page saved, added to those that the folder holds.
        question_key: the field that holds the prompt.
        answer_key: the field that holds the response.
        batch_size: rows that are scored, and then on disk, at a time.
        redact: mask the texts on the page; by default as before, first not.

    Returns:
        How many rows are to be forgotten, retained and reviewed.

    Raises:
        ValueError: for rows, decisions, a folder or an option that cannot be used; nothing is changed then.
    """
    folder, evaluators = Path(output), _listed(evaluator)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    info = open_folder(folder)
    given = {name: value for name, value in (("tau", tau), ("tau_low", tau_low)) if value is not None}
    thresholds = Thresholds(**{**info.thresholds, **given})
    rows = read_dialogues(source, salt=info.salt, question_key=question_key, answer_key=answer_key)
    check(rows, evaluators)
    people = _decisions(folder, None if decisions is None else Path(decisions), rows)
    scores = _scores(folder, info, rows, evaluators, batch_size)
    verdicts = judge(scores.of_groups(rows, info.evaluators), thresholds, people)
    unjudged = sum(not verdicts[row.group].scores for row in rows)
    if unjudged:
        warnings.warn(
            f"{unjudged} of {len(rows)} rows were judged by no evaluator: they are to be reviewed", stacklevel=2
        )
    info.thresholds, info.redact = asdict(thresholds), info.redact if redact is None else redact
    info.rows = write_rows(folder, rows, verdicts, people)
    write_whole(folder / DECISIONS, json.dumps({"decisions": people}, indent=2) + "\n")
    write_review(
        folder / PAGE,
        _review_rows(rows, verdicts, people),
        thresholds=info.thresholds,
        evaluators=[_told(about) for about in info.evaluators.values()],
        redact=info.redact,
    )
    info.save(folder)
    return info.rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command from its words; `--evaluator` may be given more than once."""
    words = repeatable(sys.argv[1:] if argv is None else argv, "--evaluator")
    options = read_options(discriminate, words, classes={evaluator_package: Evaluator})
    counts, folder = discriminate(**options), Path(options["output"])
    print(f"{counts[FORGET]} rows to forget, {counts[RETAIN]} to retain, {counts[REVIEW]} to review: {folder}")
    print(f"read them and change what was decided: {(folder / PAGE).resolve()}")
    return 0


def _listed(evaluator: Evaluator | list[Evaluator] | None) -> list[Evaluator]:
    return list(evaluator) if isinstance(evaluator, list | tuple) else [evaluator] if evaluator is not None else []


def _decisions(folder: Path, new: Path | None, rows: Sequence[Row]) -> dict[str, str]:
    """Return the decisions of people that the folder holds, and new ones."""
    kept = read_decisions(folder / DECISIONS) if (folder / DECISIONS).exists() else {}
    groups = {row.group for row in rows}
    return merged(kept, {} if new is None else read_decisions(new), dialogues=groups)


def _scores(folder: Path, info: Info, rows: Sequence[Row], evaluators: list[Evaluator], batch_size: int) -> ScoreFile:
    """Score what is not scored yet, or check that all is."""
    scores = ScoreFile(folder / SCORES)
    if evaluators:
        info.save(folder)  # a killed scoring continues with its salt
    for evaluator in evaluators:
        scores.fill(rows, evaluator, batch_size=batch_size)
    if evaluators:
        info.evaluators = {
            evaluator_key(evaluator): {"class": type(evaluator).__name__, "settings": evaluator.settings}
            for evaluator in evaluators
        }
    if missing := scores.missing(rows, info.evaluators) if info.evaluators else rows:
        raise ValueError(
            f"evaluator must be given, got none: {len(missing)} rows have no scores, the first {missing[0].source}"
        )
    return scores


def _review_rows(rows: Sequence[Row], verdicts: Mapping[str, Verdict], people: Mapping[str, str]) -> list[ReviewRow]:
    """Lay out one entry for each dialogue, also where several rows say the same."""
    found: dict[str, ReviewRow] = {}
    for row in rows:
        if row.group in found:
            found[row.group]["source"].append(row.source)
            continue
        verdict = verdicts[row.group]
        found[row.group] = {
            "id": row.group,
            "source": [row.source],
            "prompt": row.dialogue.prompt,
            "response": row.dialogue.response,
            "scores": verdict.scores,
            "proposed": verdict.proposed,
            "decision": verdict.decision,
            "by_person": row.group in people,
        }
    return list(found.values())


def _told(about: Mapping[str, Any]) -> str:
    """Name an evaluator and what it asks, but no pattern: that may hold what is to be forgotten."""
    asked = about["settings"].get("model") or about["settings"].get("function")
    return f"{about['class']} ({asked})" if asked else about["class"]
