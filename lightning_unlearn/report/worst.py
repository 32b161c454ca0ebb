"""The worst rows of a set, by every score that says so: what is least forgotten, or what is most damaged."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from lightning_unlearn.evaluation.log import Sample

Stages = dict[str, Sample]  # the samples of a row by stage
SCORES = ("rougeL_recall", "probability", "exact_memorization", "cosine_similarity", "entailment")


def worst_first(rows: Sequence[Stages], *, falls: bool) -> list[tuple[Stages, list[str]]]:
    """Order rows from the worst on, each with the scores by which it is the worst of all.

    The worst row by each score comes first, in the order of `SCORES`; then the others by the mean of their scores.
    A score that is the same for all rows names none.

    Args:
        rows: samples of each row by stage.
        falls: whether a fall of a score is what is bad, against the starting model where that was evaluated; else what
            is left of it.
    """
    bad = [badness(stages, falls=falls) for stages in rows]
    means = [fmean(found.values()) if found else -1.0 for found in bad]
    named: dict[int, list[str]] = {}
    for key in SCORES:
        known = [place for place, found in enumerate(bad) if key in found]
        if len({bad[place][key] for place in known}) > 1:
            named.setdefault(max(known, key=lambda place: (bad[place][key], means[place])), []).append(key)
    others = sorted(set(range(len(rows))) - named.keys(), key=lambda place: (-means[place], place))
    return [(rows[place], named.get(place, [])) for place in (*named, *others)]


def badness(stages: Stages, *, falls: bool) -> dict[str, float]:
    """How bad a row is after unlearning by each score that it has; higher is worse.

    >>> badness({"before": {"probability": 0.9}, "after": {"probability": 0.4}}, falls=True)
    {'probability': 0.5}
    """
    after = row_scores(stages.get("after") or next(iter(stages.values())))
    before = row_scores(stages["before"]) if {"before", "after"} <= stages.keys() else {}
    return {key: before.get(key, 1.0) - value if falls else value for key, value in after.items()}


def row_scores(sample: Sample) -> dict[str, float]:
    """The scores of a sample that grow with memory, each in [0, 1]; exact memorisation from the tokens' own column.

    >>> row_scores({"probability": 0.5, "entailment": True, "token_correct": [1, 0]})
    {'probability': 0.5, 'exact_memorization': 0.5, 'entailment': 1.0}
    """
    correct = sample.get("token_correct")
    values = {**sample, **({"exact_memorization": fmean(correct)} if correct else {})}
    return {key: float(values[key]) for key in SCORES if isinstance(values.get(key), (bool, int, float))}
