"""Names that callbacks monitor."""

from __future__ import annotations

import pytest
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint

from lightning_unlearn.callbacks.monitors import check_monitored, logged, monitored


def test_only_scores_of_the_evaluation_count():
    others = [ModelCheckpoint(), ModelCheckpoint(monitor="val/loss"), LearningRateMonitor()]
    assert monitored([*others, EarlyStopping("eval/criterion")]) == ["criterion"]
    assert logged({"criterion": 0.5}) == {"eval/criterion": 0.5}
    check_monitored(others, [])


def test_another_name_is_told_with_the_choices():
    callbacks = [EarlyStopping("eval/a"), EarlyStopping("eval/aa")]
    check_monitored(callbacks, ["aa", "a"])
    with pytest.raises(ValueError, match=r"got 'eval/aa'; there are: eval/a, eval/b$"):
        check_monitored(callbacks, ["a", "b"])
    with pytest.raises(ValueError, match=r"got 'eval/a'; there are: none, as training_max_rows is 0$"):
        check_monitored(callbacks, [])
