"""What attacks brought back, as scores of a leaderboard: shares that a run's stress tests recovered, and verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning_unlearn.report.runs import Run
from lightning_unlearn.report.words import COMES_BACK, STRONGEST, stress_label, stress_rank

VERDICTS = ("exposed", "unclear", "holds")  # the worst first


def with_shares(run: Run) -> Run:
    """The run with "stress/<attack>" among its scores: the largest share of what was known that the attack recovered.

    "stress/strongest" is that of the strongest attack, of those that surely expose the model where there is one.
    """
    known = _known(run)
    if not known:
        return run
    shares = {f"{COMES_BACK}/{name}": known[name]["share"] for name in sorted(known, key=stress_rank)}
    shares[STRONGEST] = known[_strongest(known)]["share"]
    return replace(run, metrics={**run.metrics, "after": {**run.metrics.get("after", {}), **shares}})


def is_recovered(key: str) -> bool:
    """Whether a score is a share that attacks recovered."""
    return key.startswith(f"{COMES_BACK}/")


def told(runs: Sequence[Run], key: str) -> str:
    """The verdict on a recovered share: of several seeds the worst, and of how many; "" for any other score."""
    if not runs or not is_recovered(key):
        return ""
    name = key.removeprefix(f"{COMES_BACK}/")
    tested = [
        {attack for attack, of in run.stress.items() if (of.get("curves") or {}).get("unlearned")} for run in runs
    ]
    if not any(attacks if key == STRONGEST else name in attacks for attacks in tested):
        return "not tested"
    found = [(known, _strongest(known) if key == STRONGEST else name) for run in runs if (known := _known(run))]
    verdicts = [known[attack]["verdict"] for known, attack in found if attack in known]
    if not verdicts:
        return "not known"
    worst = min(verdicts, key=VERDICTS.index)
    count = verdicts.count(worst)
    return worst if count == len(runs) else f"{worst} in {count} of {len(runs)}"


def strongest(runs: Sequence[Run]) -> str:
    """Names of the strongest attack on each of the runs."""
    names = (stress_label(_strongest(known)) for run in runs if (known := _known(run)))
    return ", ".join(dict.fromkeys(names)).lower()


def differ(runs: Sequence[Run]) -> bool:
    """Whether the runs that were attacked met different attacks or options, or not all beside a retrained model."""
    ways = [
        [[name, of.get("options"), bool((of.get("curves") or {}).get("retrained"))] for name, of in run.stress.items()]
        for run in runs
        if run.stress
    ]
    return len({json.dumps(sorted(way, key=str), sort_keys=True) for way in ways}) > 1


def _known(run: Run) -> dict[str, dict[str, Any]]:
    """What each attack recovered, of those of which it can be told."""
    return {name: of["recovered"] for name, of in run.stress.items() if of.get("recovered")}


def _strongest(known: dict[str, dict[str, Any]]) -> str:
    return max(known, key=lambda name: (known[name]["verdict"] == "exposed", known[name]["share"]))
