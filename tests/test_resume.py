"""A run that is killed at any step and resumed ends as if it had not been: same weights, same losses."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.data.share import trainer_options
from lightning_unlearn.models import Lora
from lightning_unlearn.objectives.answer_preservation import AnswerPreservation
from lightning_unlearn.objectives.base import Objective
from lightning_unlearn.objectives.maximize_entropy import MaximizeEntropy
from lightning_unlearn.objectives.npo import NPO
from tests.dense import make_rows, tiny

RUNS = {
    # The reference is a copy of the initial weights, also after a resume.
    "full": (NPO, {"retain": "kl", "beta": 0.5}),
    # Dropout: the random stream has to go on where it was.
    "lora": (MaximizeEntropy, {"lora": Lora(dropout=0.4), "retain": "reverse_kl"}),
    "refusals": (AnswerPreservation, {"lora": Lora(dropout=0.1), "scheduler": "cosine"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny(dtype=torch.float32).save_pretrained(path)
    return path


class Rows(L.LightningDataModule):
    """7 forget rows in micro-batches of 2: windows of 2 and 2, the last micro-batch holds one row.

    With a budget the rows are cut where they fit, in as many micro-batches every epoch.
    """

    def __init__(self, **size) -> None:
        super().__init__()
        self.size = size or {"batch_size": 2}

    def train_dataloader(self) -> UnlearningLoader:
        forget, retain = make_rows([1, 5, 2, 3, 1, 4, 2], seed=5), make_rows([7, 1, 1, 6, 2], seed=6)
        rows = {
            "forget": forget,
            "retain": retain,
            "forget_idk": [make_rows([2, 3, 1], seed=10 + i) for i in range(len(forget))],
            "retain_idk": [make_rows([1, 4], seed=30 + i) for i in range(len(retain))],
        }
        return UnlearningLoader(rows, seed=4, **self.size, **trainer_options(self.trainer))


class Losses(L.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.values.append(trainer.logged_metrics["train/loss"].item())


class SaveEveryMicroBatch(L.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}-{batch_idx}.ckpt")


def run(kind: str, folder: Path, *callbacks, ckpt_path: Path | None = None, micro: int = 2, seed: int = 0, **size):
    cls, options = RUNS[kind]
    torch.manual_seed(seed)
    objective: Objective = cls(str(folder), lr=1e-2, **options)
    losses = Losses()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=3,
        accumulate_grad_batches=micro,
        callbacks=[losses, *callbacks],
    )
    trainer.fit(objective, Rows(**size), ckpt_path=ckpt_path, weights_only=None if ckpt_path is None else True)
    return {name: value.clone() for name, value in objective.state_dict().items()}, losses.values


@pytest.mark.parametrize("kind", list(RUNS))
def test_resume_from_every_step(kind, folder, tmp_path):
    save = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    whole, losses = run(kind, folder, save)
    assert len(losses) == 12  # 4 micro-batches an epoch
    steps = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))
    assert len(steps) == 6
    for step, path in enumerate(steps, start=1):
        weights, rest = run(kind, folder, ckpt_path=path, seed=99)
        assert rest == losses[2 * step :]
        assert weights.keys() == whole.keys()
        assert all(torch.equal(weights[name], value) for name, value in whole.items()), f"step {step}"


def test_resume_inside_an_accumulation_window(folder, tmp_path):
    """A checkpoint at a validation, or when a run is told to stop, may fall between two micro-batches of a step."""
    whole, losses = run("lora", folder, SaveEveryMicroBatch(tmp_path), micro=3)
    for epoch in range(3):
        for index in range(4):
            weights, rest = run("lora", folder, ckpt_path=tmp_path / f"{epoch}-{index}.ckpt", micro=3, seed=99)
            assert rest == losses[4 * epoch + index + 1 :]
            assert all(torch.equal(weights[name], value) for name, value in whole.items()), (epoch, index)


@pytest.mark.parametrize("end", [True, False])
def test_resume_at_every_micro_batch_of_a_budget(folder, tmp_path, end):
    """With `end`, from checkpoints that are written when an epoch has ended."""
    size = {"tokens_per_batch": 60}
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole, losses = run("lora", folder, saves if end else SaveEveryMicroBatch(tmp_path), micro=2, **size)
    batches = len(losses) // 3
    assert len(losses) == 3 * batches >= 12
    for epoch in range(3):
        for index in [batches - 1] if end else range(batches):
            path = tmp_path / (f"epoch={epoch}.ckpt" if end else f"{epoch}-{index}.ckpt")
            weights, rest = run("lora", folder, ckpt_path=path, micro=2, seed=99, **size)
            assert rest == losses[batches * epoch + index + 1 :]
            assert all(torch.equal(weights[name], value) for name, value in whole.items()), (epoch, index)


def test_another_budget_inside_an_epoch_is_refused_before_training(folder, tmp_path):
    run("lora", folder, SaveEveryMicroBatch(tmp_path), tokens_per_batch=60)
    with pytest.raises(ValueError, match="tokens_per_batch must stay 60 to resume inside an epoch, got 61"):
        run("lora", folder, ckpt_path=tmp_path / "1-0.ckpt", tokens_per_batch=61)


def test_a_killed_run_continues(folder, tmp_path):
    class Kill(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 3:
                raise KeyboardInterrupt

    whole, losses = run("lora", folder)
    save = ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False, every_n_train_steps=1)
    with pytest.raises(SystemExit):
        run("lora", folder, save, Kill())
    weights, rest = run("lora", folder, ckpt_path=tmp_path / "last.ckpt", seed=99)
    assert rest == losses[6:]
    assert all(torch.equal(weights[name], value) for name, value in whole.items())


def test_the_checkpoint_loads_with_weights_only(folder, tmp_path):
    save = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1)
    run("full", folder, save)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert len(state["state_dict"]) == len(tiny().state_dict())  # the model once: neither reference nor source
