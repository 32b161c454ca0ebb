"""A resumed run is the unbroken one to the last bit, whichever micro-batch the checkpoint was written after."""

from __future__ import annotations

import lightning as L
import pytest
import torch

from lightning_unlearn.data.fictitious import FictitiousAuthors
from lightning_unlearn.models import Lora
from lightning_unlearn.objectives.maximize_entropy import MaximizeEntropy
from lightning_unlearn.objectives.npo import NPO
from lightning_unlearn.resume import loader_position


class SaveEveryMicroBatch(L.Callback):
    """Checkpoints also where an optimiser step is half done, as a signal may ask for."""

    def __init__(self, folder) -> None:
        self.folder, self.count = folder, 0

    def on_train_batch_end(self, trainer, *_) -> None:
        self.count += 1
        trainer.save_checkpoint(self.folder / f"{self.count}.ckpt")


def fit(make, model_dir, callbacks=(), ckpt_path=None) -> dict[str, torch.Tensor]:
    """Two epochs of 5 micro-batches, 3 a step: a full and a short step each."""
    L.seed_everything(0, verbose=False)
    objective = make(str(model_dir))
    data = FictitiousAuthors(
        authors=2, forget_authors=1, max_forget_rows=10, tokenizer=str(model_dir), batch_size=2, max_length=128
    )
    trainer = L.Trainer(
        max_epochs=2,
        accumulate_grad_batches=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )
    trainer.fit(objective, datamodule=data, ckpt_path=ckpt_path)
    assert trainer.global_step == 4
    return {name: value.clone() for name, value in objective.state_dict().items()}


@pytest.mark.parametrize(
    "make",
    [
        lambda model: MaximizeEntropy(model, lr=1e-2, lora=Lora(r=2, dropout=0.5)),
        lambda model: NPO(model, lr=1e-2, retain="kl", reference="copy"),
    ],
    ids=["lora with dropout", "full with a copy"],
)
def test_resume_after_every_micro_batch(make, tiny_model_dir, tmp_path):
    saver = SaveEveryMicroBatch(tmp_path)
    unbroken = fit(make, tiny_model_dir(), [saver])
    assert saver.count == 10
    for count in range(1, 10):
        resumed = fit(make, tiny_model_dir(), ckpt_path=tmp_path / f"{count}.ckpt")
        for name, value in unbroken.items():
            torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=f"{name} after micro-batch {count}")


def test_a_checkpoint_between_steps_holds_no_gradients(tiny_model_dir, tmp_path):
    fit(lambda model: MaximizeEntropy(model, lr=1e-2), tiny_model_dir(), [SaveEveryMicroBatch(tmp_path)])
    held = {
        count: bool(torch.load(tmp_path / f"{count}.ckpt", weights_only=True)["training_state"]["gradients"])
        for count in range(1, 11)
    }
    assert [count for count, holds in held.items() if not holds] == [3, 5, 8, 10]  # the ends of steps


def test_loader_position_of_a_checkpoint_without_one():
    assert loader_position({}) is None
    assert loader_position({"loops": {"fit_loop": {"state_dict": {"combined_loader": []}}}}) is None
