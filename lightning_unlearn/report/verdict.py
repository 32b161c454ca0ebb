"""The verdict of a run: did it forget, did it keep the rest? Pure functions of the metrics.

The thresholds are this package's own, stated in every report; the numbers beside them are what counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_unlearn.report.runs import Run
from lightning_unlearn.report.words import SETS, number, percent

FORGOTTEN = 0.75  # share of the way from the starting to the retrained model
FORGOTTEN_ALONE = 0.65  # the same without a retrained model: share of the way to zero, which no model has to reach
PARTLY = 0.3
KEPT = 0.9  # share of the starting score on the retain set
MOSTLY_KEPT = 0.75


@dataclass(frozen=True)
class Verdict:
    """One sentence with its two marks.

    Attributes:
        forgot: "yes", "partly", "no" or "unknown".
        kept: the same.
        sentence: the headline.
        details: the numbers the headline rests on, one sentence each.
    """

    forgot: str
    kept: str
    sentence: str
    details: tuple[str, ...]


def share_removed(before: float, after: float, floor: float | None) -> float:
    """The share of what was remembered that is gone: (before - after) / (before - floor), 1 at the floor.

    The floor is the retrained model's score. None, or one that the starting model does not exceed, counts as 0.
    """
    bottom = floor if floor is not None and floor < before else 0.0
    return (before - after) / (before - bottom) if before > bottom else 1.0


def grade(share: float | None, high: float, low: float) -> str:
    """Turn a share into "yes" (at least `high`), "partly" (at least `low`), "no", or "unknown" for None."""
    if share is None:
        return "unknown"
    return "yes" if share >= high else "partly" if share >= low else "no"


def verdict(run: Run) -> Verdict:
    """Judge a run by the ROUGE-L recall of its answers on the forget set and its scores on the retain set."""
    before, after = (run.value(stage, "forget/rougeL_recall") for stage in ("before", "after"))
    floor = run.value("retrained", "forget/rougeL_recall")
    removed = None if before is None or after is None else share_removed(before, after, floor)
    kept_share = kept(run)
    forgot_mark = grade(removed, FORGOTTEN if floor is not None else FORGOTTEN_ALONE, PARTLY)
    kept_mark = grade(kept_share, KEPT, MOSTLY_KEPT)
    return Verdict(forgot_mark, kept_mark, _sentence(run, forgot_mark, kept_mark, kept_share), _details(run))


def kept(run: Run) -> float | None:
    """The smaller share of its starting ROUGE-L recall and probability that the model keeps on the retain set."""
    pairs = [
        [run.value(stage, key) for stage in ("before", "after")]
        for key in ("retain/rougeL_recall", "retain/probability")
    ]
    shares = [after / before for before, after in pairs if before and after is not None]
    return min(shares, default=None)


def recall_kept(run: Run, name: str) -> float | None:
    """The share of its starting ROUGE-L recall that the model keeps on a set."""
    before, after = (run.value(stage, f"{name}/rougeL_recall") for stage in ("before", "after"))
    return after / before if before and after is not None else None


def of_muse(first: Run, last: Run) -> str:
    """What MUSE's scores say of a model after a run, beside the one before that or an earlier run; "" without them."""
    pairs = [
        [first.value("before", key), last.value("after", key)] for key in ("muse/verbatim_memorization", "muse/utility")
    ]
    if any(after is None for _, after in pairs):
        return ""
    memory, utility = (f"{number(after)} (from {number(before)})" for before, after in pairs)
    return f"verbatim memorisation of all texts is {memory}, utility {utility}"


def _sentence(run: Run, forgot: str, kept_mark: str, kept_share: float | None) -> str:
    if "after" not in run.metrics:
        return "This run has no final evaluation yet, so there is no verdict."
    before, after = (run.value(stage, "forget/rougeL_recall") for stage in ("before", "after"))
    if after is None:
        unknown = "The model's recall of the forget set was not measured, so there is no verdict"
        return f"{of_muse(run, run).capitalize() or unknown}."
    if forgot == "unknown":
        first = f"The model's recall of the forget set is {number(after)}; where it started is not known"
    else:
        lead = {"yes": "has forgotten", "partly": "has forgotten in part", "no": "still remembers"}[forgot]
        first = f"The model {lead}: its recall of the forget set went from {number(before)} to {number(after)}"
    if kept_share is None:
        return f"{first}."
    joint = "but" if (forgot == "yes") != (kept_mark == "yes") else "and"
    end = {"yes": "it keeps", "partly": "it keeps only", "no": "it keeps no more than"}[kept_mark]
    return f"{first}, {joint} {end} {percent(kept_share)} of its score on the retain set."


def _details(run: Run) -> tuple[str, ...]:
    details = []
    floor, entropy = run.value("retrained", "forget/rougeL_recall"), run.value("after", "forget/token_entropy")
    if floor is not None:
        details.append(f"A model trained without the forget set scores {number(floor)} there.")
    quality = run.value("after", "forget_quality")
    if quality is not None:
        judged = "cannot" if quality > 0.05 else "can"
        details.append(
            f"By their truth ratios the two models {judged} be told apart "
            f"(Kolmogorov-Smirnov test, p = {number(quality)})."
        )
    losses = [(SETS[name].lower(), recall_kept(run, name)) for name in ("real_authors", "world_facts")]
    lost = [f"{percent(share)} on {name}" for name, share in losses if share is not None and share < KEPT]
    if lost:
        details.append(f"General knowledge suffered: of its recall it keeps {' and '.join(lost)}.")
    if entropy is not None and entropy < 0.5:
        details.append(
            f"Its answers on the forget set repeat themselves (token entropy {number(entropy)}): it may be damaged "
            "there rather than ignorant."
        )
    return tuple(details)
