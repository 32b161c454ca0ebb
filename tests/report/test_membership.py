"""The plot of membership attacks."""

from __future__ import annotations

import math
from pathlib import Path

from lightning_unlearn.report.membership import membership
from lightning_unlearn.report.runs import Run
from tests.report.test_plots import parsed


def test_attacks_of_every_stage_in_their_order():
    metrics = {
        "before": {"privacy/mine_auc": 0.9, "privacy/zlib_auc": 0.8, "privacy/loss_auc": 0.75},
        "retrained": {"privacy/loss_auc": 0.5},
        "after": {"privacy/loss_closeness": 1.0, "privacy/reference_auc": math.nan, "forget/x_auc": 0.1},
    }
    found = membership(Run(Path("r"), metrics=metrics))
    assert found is not None
    told = "Membership attacks. LOSS: before 0.750, retrained 0.500; zlib: before 0.800; mine: before 0.900"
    assert parsed(found["svg"]).get("aria-label") == told
    assert found["stages"] == ["before", "retrained"]


def test_intervals_are_drawn():
    key = "privacy/loss_auc"
    run = Run(Path("r"), metrics={"after": {key: 0.5}}, intervals={"after": {key: (0.4, 0.6)}})
    assert 'class="line after"' in membership(run)["svg"]
    assert 'class="line after"' not in membership(Run(Path("r"), metrics=run.metrics))["svg"]


def test_no_attack_no_plot():
    assert membership(Run(Path("r"), metrics={"after": {"privacy/loss_closeness": 1.0}})) is None
