import signal

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from lightning_unlearn.callbacks.preemption import SaveOnSigterm


class Module(L.LightningModule):
    """A weight that grows by one a step; SIGTERM comes in the middle of a chosen micro-batch."""

    def __init__(self, told_at: int | None) -> None:
        super().__init__()
        self.told_at = told_at
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        if batch_idx == self.told_at:
            signal.raise_signal(signal.SIGTERM)
        return -self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(folder, told_at, **options):
    module = Module(told_at)
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SaveOnSigterm()],
        **options,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(8, 1)))
    return module


@pytest.mark.parametrize(("told_at", "accumulate", "steps"), [(0, 1, 1), (3, 1, 4), (2, 4, 1), (4, 4, 2)])
def test_it_saves_at_the_end_of_the_optimiser_step_and_ends_the_process(tmp_path, told_at, accumulate, steps):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException) as ended:
        fit(tmp_path, told_at, accumulate_grad_batches=accumulate)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == steps
    assert checkpoint["state_dict"]["weight"].item() == steps


def test_without_a_signal_nothing_is_saved_and_the_handler_is_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert fit(tmp_path, None).weight.item() == 8
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "checkpoints").exists()
