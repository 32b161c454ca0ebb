"""Counting tokens, time and memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_unlearn.callbacks import throughput
from lightning_unlearn.callbacks.throughput import StepWatch, Throughput, count_tokens, peak_memory_gb
from lightning_unlearn.report.runs import read_run


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_watch_does_not_count_pauses():
    clock = Clock()
    watch = StepWatch(clock)
    watch.start()
    clock.now = 2.0
    watch.start()  # runs already: no restart
    clock.now = 3.0
    watch.pause()
    clock.now = 10.0
    assert watch.total() == 3.0
    watch.start()
    clock.now = 11.5
    assert watch.total() == 4.5
    assert watch.lap() == 4.5
    clock.now = 12.0
    assert watch.total() == 0.5  # runs on after a lap
    watch.pause()
    assert watch.lap() == 0.5
    clock.now = 20.0
    assert watch.total() == 0.0  # and stands still after a lap in a pause


def test_count_tokens():
    packed = SimpleNamespace(input_ids=torch.zeros(7, dtype=torch.long))
    padded = {
        "forget": {"input_ids": torch.zeros(2, 4), "attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])},
        "retain": {"input_ids": torch.zeros(1, 4)},
    }
    assert count_tokens(packed) == 7
    assert count_tokens(padded) == 5 + 4
    assert count_tokens(torch.zeros(3)) == 0


def test_peak_memory_is_that_of_this_process():
    assert 0.01 < peak_memory_gb(torch.device("cpu")) < 1000


class Net(LightningModule):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        self.clock.now += 0.5
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.clock.now += 100.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def rows(count: int) -> DataLoader:
    return DataLoader([{"input_ids": torch.zeros(10, dtype=torch.long)} for _ in range(count)], batch_size=None)


@pytest.mark.parametrize(("every", "accumulate", "steps"), [(1, 1, [0, 1, 2, 3]), (2, 1, [1, 3]), (1, 2, [0, 1])])
def test_logs_tokens_per_second_of_training_alone(tmp_path, monkeypatch, every, accumulate, steps):
    clock = Clock()
    monkeypatch.setattr(throughput.time, "perf_counter", clock)
    callback = Throughput()
    callback.watch = StepWatch(clock)
    trainer = Trainer(
        max_epochs=1,
        logger=CSVLogger(str(tmp_path), name="logs"),
        default_root_dir=str(tmp_path),
        callbacks=[callback],
        log_every_n_steps=every,
        accumulate_grad_batches=accumulate,
        val_check_interval=2,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Net(clock), rows(4), rows(1))
    curves = read_run(tmp_path).curves
    assert curves["train/tokens_per_second"] == [(step, pytest.approx(20.0)) for step in steps]  # 10 tokens in 0.5 s
    assert [step for step, _ in curves["train/peak_memory_gb"]] == steps
