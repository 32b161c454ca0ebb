"""When a fit begins: once, with its checkpoint read, also where nothing is left to train."""

from __future__ import annotations

import pytest
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_unlearn.callbacks.fit_begin import FitBegin
from tests.quiet import QUIET


class ReadsLate(SingleDeviceStrategy):
    """Restores a checkpoint when optimisers are there, as strategies of sharded models do."""

    restore_checkpoint_after_setup = True


class Begins(FitBegin):
    def __init__(self) -> None:
        self.continued: list[object] = []

    def on_fit_begin(self, trainer, pl_module):
        self.continued.append(trainer.ckpt_path)


@pytest.mark.parametrize("strategy", [SingleDeviceStrategy, ReadsLate])
@pytest.mark.parametrize("epochs", [2, 1], ids=["goes on", "nothing left"])
def test_it_begins_once_a_fit(tmp_path, strategy, epochs):
    begins, last = Begins(), tmp_path / "last.ckpt"

    def trainer(max_epochs):
        options = {"max_epochs": max_epochs, "limit_train_batches": 1, "limit_val_batches": 0, "callbacks": [begins]}
        return Trainer(**QUIET, **options, strategy=strategy("cpu"), default_root_dir=tmp_path)

    first = trainer(1)
    first.fit(BoringModel())
    first.save_checkpoint(last)
    trainer(epochs).fit(BoringModel(), ckpt_path=last)
    assert begins.continued == [None, last]
