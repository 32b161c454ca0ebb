"""A run that is killed again and again, at random moments, ends with the weights of one that is left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
KILLS = 10
SHARDED = ["--trainer.strategy", "lightning_unlearn.strategy.ShardedStrategy", "--trainer.devices", "2"]
SHARDED += ["--trainer.strategy.data_parallel_size", "2", "--trainer.strategy.tensor_parallel_size", "1"]


def words(model: Path, run: Path, ranks: int) -> list[str]:
    """A fit of 150 steps that saves after each."""
    options = {
        "--model": "NPO",
        "--model.model": model,
        "--model.retain": "kl",
        "--model.lr": "1e-3",
        "--data": "FictitiousAuthors",
        "--data.authors": 3,
        "--data.forget_authors": 1,
        "--data.batch_size": 4 // ranks,
        "--data.tokenizer": model,
        "--trainer.accelerator": "cpu",
        "--trainer.max_epochs": 30,
        "--trainer.enable_progress_bar": "false",
        "--trainer.default_root_dir": run,
        "--evaluate.max_rows": 1,
        "--evaluate.training_max_rows": 0,
        "--evaluate.max_new_tokens": 2,
        "--evaluate.protocols": "[tofu]",
        "--evaluate.progress": "false",
        "--last.every_n_train_steps": 1,
        "--ckpt_path": "last",
    }
    flat = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "lightning_unlearn", "fit", *flat, *(SHARDED if ranks == 2 else [])]


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def saved(run: Path) -> float:
    """When the last checkpoint was written; 0 where there is none, or it is being replaced."""
    try:
        return (run / "checkpoints/last.ckpt").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def interrupt(command: list[str], run: Path, kind: signal.Signals, saves: int, delay: float) -> bool:
    """Start the run, and send all its processes a signal once it has saved so often; whether it was still running."""
    process, seen, last, patience = start(command), 0, saved(run), time.monotonic() + 120
    while seen < saves and process.poll() is None:
        assert time.monotonic() < patience, "the run does not get on"
        now = saved(run)
        seen, last = seen + (now > last), max(now, last)
        time.sleep(0.005)
    time.sleep(delay)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, kind)
    error = process.communicate()[1].decode()
    if running and kind is signal.SIGTERM:
        assert process.returncode in (0, 143), error[-2000:]  # 0: it had come to its end meanwhile
    return running


@pytest.mark.slow(minutes=4)
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_ten_times_it_ends_the_same(tiny_model_dir, tmp_path, ranks):
    model, chance = tiny_model_dir(max_position_embeddings=1024), random.Random(ranks)
    unbroken, broken = words(model, tmp_path / "unbroken", ranks), words(model, tmp_path / "broken", ranks)
    start(unbroken).communicate()
    kinds = [signal.SIGKILL, signal.SIGTERM] * (KILLS // 2)
    interrupted = [
        interrupt(broken, tmp_path / "broken", k, chance.randint(1, 3), chance.random() * 0.2) for k in kinds
    ]
    assert sum(interrupted) >= KILLS - 1
    assert not (tmp_path / "broken/report.html").exists()
    process = start(broken)
    error = process.communicate()[1].decode()
    assert process.returncode == 0, error[-2000:]
    expected, found = (load_file(tmp_path / name / "model/model.safetensors") for name in ("unbroken", "broken"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
