"""The demo: it passes as shipped, on built-in and on real rows, fails loudly, and goes on where it was stopped."""

from __future__ import annotations

import json

import pytest

from lightning_unlearn.demo import METHODS, demo, main, shortcomings

GOOD = {
    "before": {"forget/rougeL_recall": 0.95, "retain/rougeL_recall": 1.0, "retain/probability": 0.8},
    "after": {"forget/rougeL_recall": 0.2, "retain/rougeL_recall": 0.95, "retain/probability": 0.75},
}
QUICK = {"forget_rows": 4, "retain_rows": 4, "epochs": 1}


def test_what_forgets_and_keeps_has_no_shortcomings():
    assert shortcomings(METHODS["me_gd"], GOOD) == []


@pytest.mark.parametrize(
    ("stage", "key", "value", "said"),
    [
        ("before", "forget/rougeL_recall", 0.9, "starting model's forget/rougeL_recall must be above 0.9, got 0.900"),
        ("after", "forget/rougeL_recall", 0.35, "ME+GD: forget/rougeL_recall must be below 0.35, got 0.350"),
        ("after", "retain/rougeL_recall", 0.9, "retain/rougeL_recall must stay above 0.900 (of 1.000), got 0.900"),
        ("after", "retain/probability", 0.7, "retain/probability must stay above 0.720 (of 0.800), got 0.700"),
        ("after", "retain/probability", float("nan"), "retain/probability must stay above 0.720 (of 0.800), got nan"),
    ],
)
def test_each_shortcoming_is_named(stage, key, value, said):
    metrics = {**GOOD, stage: {**GOOD[stage], key: value}}
    (found,) = shortcomings(METHODS["me_gd"], metrics)
    assert said in found


def test_idk_ap_may_lose_more_of_the_retain_set():
    metrics = {**GOOD, "after": {**GOOD["after"], "retain/rougeL_recall": 0.87}}
    assert shortcomings(METHODS["idk_ap"], metrics) == []
    assert shortcomings(METHODS["me_gd"], metrics) != []


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(ValueError, match="output must be a new folder or an earlier demo"):
        demo(output=tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "important"


def test_an_earlier_demo_with_other_settings_is_not_mixed_with(tmp_path):
    (tmp_path / "demo.json").write_text(json.dumps({"seed": 3}))
    with pytest.raises(ValueError, match="output must be a new folder or a demo with these settings"):
        demo(output=tmp_path)


@pytest.mark.slow
def test_a_demo_that_did_not_learn_fails_loudly_and_is_not_repeated(tmp_path, capsys):
    assert demo(output=tmp_path, redact=True, **QUICK) == 1
    assert "demo failed: the starting model's forget/rougeL_recall must be above 0.9" in capsys.readouterr().err
    for name in METHODS:
        assert {path.name for path in (tmp_path / name).iterdir()} >= {"model", "report.html", "metrics.json"}
    assert not (tmp_path / "retrained/samples.jsonl").exists()  # the runs have it, masked
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert demo(output=tmp_path, redact=True, **QUICK) == 1
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


@pytest.mark.slow(minutes=2)
def test_the_demo_as_shipped(tmp_path):
    assert main(["--output", str(tmp_path / "demo")]) == 0
    assert "<svg" in (tmp_path / "demo/report.html").read_text()


@pytest.mark.slow(minutes=3)
def test_the_demo_on_real_tofu(tmp_path, tofu_dir):
    assert main(["--output", str(tmp_path / "demo"), "--data", str(tofu_dir)]) == 0
