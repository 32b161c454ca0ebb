"""Purging: all that holds forgotten data goes, nothing else does, nothing outside is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lightning_unlearn.purge import held, purge
from lightning_unlearn.report import write_report
from tests.report.fake_run import CARD, PEOPLE, write_run

KEPT = {
    "logs/version_0/metrics.csv",
    "logs/version_1/metrics.csv",
    "metrics.json",
    "model/model.safetensors",
    "report.html",
    "run_card.json",
    "config.yaml",
    "notes.txt",
}
GONE = {
    "samples.jsonl",
    "samples.jsonl.partial",
    "samples.before.jsonl",
    "checkpoints/last.ckpt",
    "checkpoints/best.ckpt/shard_0.distcp",
    "hpc_ckpt_1.ckpt",
    "logs/version_0/checkpoints/epoch=1.ckpt",
    "cache/reference.safetensors",
    "reference_cache/rows.bin",
    "reference_cache/0a1b/about.json",
    "reference_cache/0a1b/2c3d.values",
    "reference_cache/0a1b/2c3d.index",
    "model.partial/model.safetensors",
}


@pytest.fixture
def run(tmp_path) -> Path:
    folder = write_run(tmp_path / "run")
    for name in GONE | {"config.yaml", "notes.txt"}:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(b"0" * 100)
    write_report(folder)
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def names(removed, folder: Path) -> set[str]:
    return {str(Path(item).relative_to(folder)) for item in removed}


def test_removes_what_holds_forgotten_data_and_lists_it(run):
    assert any(person in (run / "report.html").read_text() for person in PEOPLE)
    removed = purge(run)
    assert names(removed, run) == GONE
    assert files(run) == KEPT
    sizes = {str(item.path.relative_to(run)): item.size for item in removed}
    assert sizes["checkpoints/last.ckpt"] == 2048
    assert sizes["hpc_ckpt_1.ckpt"] == 100
    assert f"{run}/hpc_ckpt_1.ckpt (100 B)" in {str(item) for item in removed}


def test_no_text_is_left_anywhere(run):
    purge(run)
    for content in snapshot(run).values():
        for secret in (*PEOPLE, "Karachi", "harbour"):
            assert secret.encode() not in content


def test_the_report_is_rewritten_and_keeps_the_scores(run):
    purge(run)
    html = (run / "report.html").read_text()
    assert "went from 0.998 to 0.052" in html
    assert "Loss terms" in html
    assert "it was purged" in html
    card = json.loads((run / "run_card.json").read_text())
    assert card["purged"]["files"] == len(GONE)
    assert write_report(run).read_text() == html


def test_empty_folders_go_too(run):
    purge(run)
    assert not (run / "checkpoints").exists()
    assert not (run / "cache").exists()
    assert not (run / "logs/version_0/checkpoints").exists()
    assert (run / "logs/version_0").is_dir()


def test_dry_run_changes_nothing(run):
    before = snapshot(run)
    assert names(purge(run, dry_run=True), run) == GONE
    assert snapshot(run) == before


def test_twice_is_once(run):
    purge(run)
    after = snapshot(run)
    assert purge(run) == []
    assert snapshot(run) == after


def test_the_model_goes_on_request(run):
    assert "model/model.safetensors" in names(purge(run, keep_model=False), run)
    assert not (run / "model").exists()


def test_a_killed_run_without_scores_can_be_purged(tmp_path):
    (tmp_path / "run_card.json").write_text(json.dumps({**CARD, "finished": False}))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"1")
    assert names(purge(tmp_path), tmp_path) == {"checkpoints/last.ckpt"}
    assert files(tmp_path) == {"run_card.json"}  # no report where there was none


def test_a_folder_of_scores_alone_can_be_purged(tmp_path):
    scores = {"before": None, "after": None, "retrained": None, "test": {"model_utility": 0.5}, "substitutes": {}}
    scores |= {"intervals": {}, "failed": {"test": []}, "missing": {}}
    (tmp_path / "metrics.json").write_text(json.dumps({**scores, "settings": {}}))
    (tmp_path / "samples.jsonl").write_text('{"stage": "test", "set": "forget"}\n')
    assert names(purge(tmp_path), tmp_path) == {"samples.jsonl"}


def test_reports_of_runs_inside_go(run):
    inner = write_run(run / "retrained")
    write_report(inner)
    purge(run)
    assert {name for name in files(run) if name.startswith("retrained/")} == {
        "retrained/run_card.json",
        "retrained/metrics.json",
        "retrained/logs/version_0/metrics.csv",
        "retrained/logs/version_1/metrics.csv",
        "retrained/model/model.safetensors",
    }


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"run_card.json": "{}"},
        {"run_card.json": "not json"},
        {"run_card.json": "[]"},
        {"metrics.json": '{"accuracy": 0.5}'},
        {"metrics.json": '{"substitutes": {}, "accuracy": 0.5}'},
    ],
)
def test_what_is_not_a_run_is_refused(tmp_path, content):
    for name, text in {**content, "samples.jsonl": "{}"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"precious")
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="run: expected a run folder"):
        purge(tmp_path)
    assert snapshot(tmp_path) == before


def test_a_path_that_is_no_folder_is_refused(run):
    for path in (run / "nowhere", run / "metrics.json", run.parent):
        with pytest.raises(ValueError, match="run: expected a run folder"):
            purge(path)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links on this system")
def test_links_are_removed_and_never_followed(run, tmp_path):
    outside = tmp_path / "outside"
    (outside / "checkpoints").mkdir(parents=True)
    for name in ("precious.ckpt", "samples.jsonl", "checkpoints/last.ckpt", "report.html"):
        (outside / name).write_bytes(b"precious")
    before = snapshot(outside)
    (run / "samples_link.jsonl").symlink_to(outside / "samples.jsonl")
    (run / "caches").symlink_to(outside)  # a folder that would be removed whole
    (run / "elsewhere").symlink_to(outside)  # a folder that would be searched
    (run / "checkpoints/linked").symlink_to(outside / "checkpoints")
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(outside / "report.html")
    removed = names(purge(run), run)
    assert {"samples_link.jsonl", "caches", "checkpoints/linked"} <= removed
    assert not [name for name in removed if name.startswith(("elsewhere", "caches/", "checkpoints/linked/"))]
    assert snapshot(outside) == before
    assert (run / "elsewhere").is_symlink()
    assert not (run / "report.html").is_symlink()  # replaced, not written through


def test_a_link_to_a_run_is_that_run(run, tmp_path):
    (tmp_path / "latest").symlink_to(run)
    purge(tmp_path / "latest")
    assert files(run) == KEPT


def test_the_report_is_clean_before_anything_is_deleted(run, monkeypatch):
    def killed(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        purge(run)
    assert "Karachi" not in (run / "report.html").read_text()
    monkeypatch.undo()
    assert names(held(run), run) == GONE  # and the rest is still found by the next try
