"""Loaders of one's own: what a run reads when it is killed in the middle of an epoch and resumed."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, RandomSampler

from lightning_unlearn.data.padded import rows_from_labels
from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.objectives.gradient_difference import GradientDifference
from tests.dense import tiny
from tests.quiet import QUIET

EPOCHS, BATCH, FORGET, RETAIN = 3, 2, 7, 11  # 4 batches of forget rows an epoch, 6 of retain rows


class Padded(torch.utils.data.Dataset):
    """Padded rows of one token and its answer; the token tells the row."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        name = self.first + index
        ids = torch.tensor([name, 3 + index % 5, 1])
        return {"input_ids": ids, "labels": torch.tensor([-100, 3 + index % 5, 1]), "attention_mask": torch.ones(3)}


class Both(torch.utils.data.Dataset):
    """A forget row with a retain row that is drawn anew each time, in the worker."""

    forget, retain = Padded(10, FORGET), Padded(30, RETAIN)

    def __len__(self) -> int:
        return FORGET

    def __getitem__(self, index: int) -> dict:
        return {"forget": self.forget[index], "retain": self.retain[int(torch.randint(RETAIN, ()))]}


class Fixed(Both):
    """The same without draws: workers that live on, and those of torchdata, do not repeat theirs."""

    def __getitem__(self, index: int) -> dict:
        return {"forget": self.forget[index], "retain": self.retain[(3 * index + 1) % RETAIN]}


def stateful(dataset, **options):
    """Torchdata's loader, which has a state_dict; without torchdata the test is skipped."""
    loaders = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    return loaders.StatefulDataLoader(dataset, **options)


def pair(make, workers: int) -> dict:
    options = {"batch_size": BATCH, "shuffle": True, "num_workers": workers}
    return {"forget": make(Padded(10, FORGET), **options), "retain": make(Padded(30, RETAIN), **options)}


LOADERS = {
    "one": lambda workers: DataLoader(Both(), batch_size=BATCH, shuffle=True, num_workers=workers),
    "persistent": lambda workers: DataLoader(
        Fixed(), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    ),
    "replacement": lambda workers: DataLoader(
        Both(), batch_size=BATCH, num_workers=workers, sampler=RandomSampler(Both())
    ),
    "dict": lambda workers: pair(DataLoader, workers),
    "combined": lambda workers: CombinedLoader(pair(DataLoader, workers), "min_size"),
    "stateful": lambda workers: stateful(Fixed(), batch_size=BATCH, shuffle=True, num_workers=workers),
    "stateful-dict": lambda workers: CombinedLoader(pair(stateful, workers), "min_size"),
}


class Seen(L.Callback):
    """What each micro-batch held: (epoch, forget rows, retain rows)."""

    def __init__(self) -> None:
        self.batches: list[tuple] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        rows = (batch[role]["input_ids"][:, 0].tolist() for role in ("forget", "retain"))
        self.batches.append((trainer.current_epoch, batch_idx, *rows))


class SaveEveryMicroBatch(L.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}-{batch_idx}.ckpt")


def run(loader, *callbacks, seed: int = 0, ckpt_path: Path | None = None) -> tuple[dict, list]:
    torch.manual_seed(seed)
    objective, seen = GradientDifference(tiny(dtype=torch.float32), lr=1e-2, warmup_epochs=0), Seen()
    saving = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = L.Trainer(**{**QUIET, "enable_checkpointing": saving}, max_epochs=EPOCHS, callbacks=[seen, *callbacks])
    trainer.fit(objective, loader, ckpt_path=ckpt_path, weights_only=None if ckpt_path is None else True)
    return objective.state_dict(), seen.batches


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", list(LOADERS))
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_resume_at_every_micro_batch(kind, workers, tmp_path):
    whole, batches = run(LOADERS[kind](workers), SaveEveryMicroBatch(tmp_path))
    assert len({epoch for epoch, *_ in batches}) == EPOCHS
    length = len(batches) // EPOCHS
    first, second = ([rows for _, _, rows, _ in batches[at : at + length]] for at in (0, length))
    assert first != second  # shuffled anew
    at = range(len(batches)) if not workers else range(0, len(batches), 2)
    for done in at:
        epoch, index, *_ = batches[done]
        weights, rest = run(LOADERS[kind](workers), seed=99, ckpt_path=tmp_path / f"{epoch}-{index}.ckpt")
        assert rest == batches[done + 1 :], (epoch, index)
        assert all(torch.equal(weights[name], value) for name, value in whole.items()), (epoch, index)


@pytest.mark.parametrize("kind", ["one", "stateful"])
def test_resume_from_the_end_of_an_epoch(kind, tmp_path):
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    _, batches = run(LOADERS[kind](0), save)
    for epoch in range(EPOCHS):
        _, rest = run(LOADERS[kind](0), seed=99, ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert rest == batches[4 * (epoch + 1) :]


def test_rows_of_a_padded_dataset_in_our_loader():
    """The three lines of the guide."""

    def columns(rows):
        return ([rows[i][name] for i in range(len(rows))] for name in ("input_ids", "labels", "attention_mask"))

    rows = {
        "forget": rows_from_labels(*columns(Padded(10, FORGET))),
        "retain": rows_from_labels(*columns(Padded(30, RETAIN))),
    }
    loader = UnlearningLoader(rows, batch_size=BATCH)
    objective = GradientDifference(tiny(dtype=torch.float32))
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1
    )
    trainer.fit(objective, loader)
    assert trainer.global_step == 4


def test_a_loader_that_does_not_know_the_accumulation_is_named():
    loader = UnlearningLoader({"forget": rows_from_labels([[5, 6]] * 4, [[-100, 6]] * 4)}, batch_size=1)
    trainer = L.Trainer(**QUIET, accumulate_grad_batches=2, max_epochs=1)
    with pytest.warns(UserWarning, match="accumulate of UnlearningLoader returns 1"):
        trainer.fit(GradientDifference(tiny(dtype=torch.float32), retain="none"), loader)
