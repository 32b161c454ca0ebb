"""Reading a run folder."""

from __future__ import annotations

import json

import pytest

from lightning_unlearn.report.runs import read_curves, read_run
from tests.report.fake_run import write_run


def write_log(folder, version: int, text: str):
    file = folder / f"logs/version_{version}/metrics.csv"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def test_reads_all_there_is(tmp_path):
    run = read_run(write_run(tmp_path / "me_gd"))
    assert run.name == "me_gd"
    assert run.method == "MaximizeEntropy"
    assert set(run.metrics) == {"before", "after", "retrained"}
    assert run.value("after", "forget/rougeL_recall") == 0.052
    assert run.value("retrained", "forget_quality") is None
    assert run.value("after", "no such metric") is None
    assert {stage: len(rows) for stage, rows in run.samples.items()} == {"before": 30, "after": 30, "retrained": 30}
    assert run.substitutes["cosine_similarity"] == "bag-of-words cosine"


def test_curves_of_a_resumed_run_are_merged_and_the_later_version_wins(tmp_path):
    # killed at step 3, resumed from the checkpoint of step 2; evaluation rows have empty cells; 10 comes after 9
    write_log(tmp_path, 9, "step,train/loss,eval/x\n1,4.0,\n2,3.0,\n2,,0.5\n3,9.0,\n")
    write_log(tmp_path, 10, "step,eval/x,train/loss\n3,,2.0\n4,0.7,nan\n")
    run = read_run(tmp_path)
    assert run.curves == {"train/loss": [(1, 4.0), (2, 3.0), (3, 2.0)], "eval/x": [(2, 0.5), (4, 0.7)]}


def test_folders_of_other_logs_are_left_alone(tmp_path):
    write_log(tmp_path, 0, "step,train/loss\n1,4.0\n")
    other = tmp_path / "logs/version_latest"
    other.mkdir()
    (other / "metrics.csv").write_text("step,train/loss\n1,8.0\n")
    assert read_run(tmp_path).curves == {"train/loss": [(1, 4.0)]}
    assert read_curves([]) == {}


def test_a_folder_of_test_alone_counts_as_after(tmp_path):
    metrics = {"before": None, "after": None, "test": {"model_utility": 0.5}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    sample = {"stage": "test", "set": "forget", "index": 0}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    run = read_run(tmp_path)
    assert run.metrics == {"after": {"model_utility": 0.5}}
    assert run.samples["after"] == [sample]


def test_intervals_failed_rows_and_settings(tmp_path):
    failed = [{"set": "forget", "index": 3, "why": "NaN"}]
    metrics = {
        "test": {"forget/probability": 0.5, "a": 1.0},
        "intervals": {"test": {"forget/probability": [0.4, 0.6], "a": [None, None]}},
        "failed": {"before": [], "test": failed},
        "missing": {"test": {"b": "a holdout"}},
        "settings": {"max_rows": 5, "not_erased": "a guard"},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    run = read_run(tmp_path)
    assert run.interval("after", "forget/probability") == (0.4, 0.6)
    assert run.interval("after", "a") is None
    assert run.interval("before", "a") is None
    assert run.failed == {"after": failed}
    assert run.missing == {"after": {"b": "a holdout"}}
    assert run.evaluation["max_rows"] == 5
    assert run.not_erased == "a guard"


def test_what_is_missing_is_empty(tmp_path):
    (tmp_path / "run_card.json").write_text("{}")
    run = read_run(tmp_path)
    assert (run.metrics, run.samples, run.curves, run.substitutes) == ({}, {}, {}, {})
    assert run.method == tmp_path.name


def test_no_run_there(tmp_path):
    with pytest.raises(ValueError, match=r"run: expected a folder with run_card.json.*got .*which holds none"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match=r"run: expected the folder of a run, got .*nowhere"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(("text", "message"), [("{", "expected JSON"), ("[1]", "expected a JSON object, got list")])
def test_broken_json_names_the_file(tmp_path, text, message):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=rf"metrics\.json: {message}"):
        read_run(tmp_path)
