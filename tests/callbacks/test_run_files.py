"""The files of a run folder: rank 0 alone writes, and every rank reads the same."""

import json
from types import SimpleNamespace

import pytest

from lightning_unlearn.callbacks.run_files import RunFiles
from lightning_unlearn.evaluation.log import read_samples

ROWS = [
    {"set": "forget", "stage": stage, "index": i, "answer": "Oslo"} for stage in ("before", "after") for i in (0, 1)
]


@pytest.fixture
def rank(tmp_path):
    """Make the files as a rank sees them; what rank 0 broadcasts reaches the other."""
    sent = []

    def broadcast(value, is_zero):
        if is_zero:
            sent.append(value)
        return sent[-1]

    def make(number):
        strategy = SimpleNamespace(broadcast=lambda value: broadcast(value, number == 0))
        return RunFiles(
            SimpleNamespace(strategy=strategy, is_global_zero=number == 0, default_root_dir=tmp_path / "run")
        )

    return make


def test_rank_0_alone_writes_and_both_read_the_same(rank, tmp_path):
    zero, one = rank(0), rank(1)
    for files in (zero, one):
        files.append(ROWS, masked=False)
        files.update(before={"forget/probability": 0.5})
    assert len(read_samples(tmp_path / "run")) == len(ROWS)
    assert [s["index"] for s in zero.samples("after")] == [0, 1]
    assert one.samples("after") == ROWS[2:]
    assert zero.metrics() == one.metrics()
    one.drop(lambda sample: True)
    one.clear(keep="before")
    assert len(read_samples(tmp_path / "run")) == len(ROWS)


def test_update_replaces_parts_and_names_every_stage(rank, tmp_path):
    files = rank(0)
    assert files.metrics() == {}
    files.update(before={"a": 1.0})
    files.update(after={"a": 2.0}, substitutes={})
    content = json.loads((tmp_path / "run/metrics.json").read_text())
    assert content == {"before": {"a": 1.0}, "after": {"a": 2.0}, "retrained": None, "substitutes": {}}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.json"]


def test_parts_that_tell_of_several_stages_keep_the_others(rank, tmp_path):
    files = rank(0)
    files.update(before={"a": 1.0}, intervals={"before": {"a": [0, 2]}}, failed={"before": ["x"]}, settings={"b": 1})
    files.update(after={"a": 2.0}, intervals={"after": {"a": [1, 3]}}, failed={"before": []}, settings={"c": 1})
    content = files.metrics()
    assert content["intervals"] == {"before": {"a": [0, 2]}, "after": {"a": [1, 3]}}
    assert content["failed"] == {"before": []}
    assert content["settings"] == {"c": 1}


def test_drop_and_mask_and_clear(rank, tmp_path):
    files = rank(0)
    files.drop(lambda sample: True)  # nothing there yet
    files.append(ROWS, masked=True)
    assert "Oslo" not in (tmp_path / "run/samples.jsonl").read_text()
    files.drop(lambda sample: sample["stage"] == "before")
    assert [s["stage"] for s in read_samples(tmp_path / "run")] == ["after", "after"]
    files.update(after={})
    files.clear(keep="after")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["samples.jsonl"]
    files.clear(keep="before")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("turned", [False, True])
def test_lumes_final_score_comes_by_itself_whichever_part_is_written_first(rank, turned):
    files, lume = rank(0), {"lume/task_aggregate": 0.2, "lume/mia_score": 0.6}
    parts = [{"after": lume}, {"general_ability": {"before": {"mmlu/acc": 0.5}, "after": {"mmlu/acc": 0.4}}}]
    files.update(before={"lume/task_aggregate": 0.3})
    for part in reversed(parts) if turned else parts:
        files.update(**part)
    assert files.metrics()["after"] == {**lume, "lume/final_score": pytest.approx(0.4)}  # (0.2 + 0.6 + 0.4) / 3
    assert files.metrics()["before"] == {"lume/task_aggregate": 0.3}  # it has no membership score
    assert files.metrics()["retrained"] is None
    files.update(after={"forget/probability": 0.1})
    assert files.metrics()["after"] == {"forget/probability": 0.1}
