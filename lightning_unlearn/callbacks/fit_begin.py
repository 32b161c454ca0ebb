"""A hook that Lightning lacks: a fit begins, and it is known whether it continues another."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class FitBegin(Callback):
    """Calls `on_fit_begin` once a fit, before its first batch, when the checkpoint that it continues has been read.

    That is when the fit starts; but where a strategy restores sharded checkpoints, when training starts, or when the
    fit ends as nothing was left to train.
    """

    _begun = False

    def on_fit_begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do what must be done first."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `on_fit_begin` if the checkpoint has been read."""
        self._begun = False
        if not trainer.strategy.restore_checkpoint_after_setup:
            self._begin_once(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `on_fit_begin` if the checkpoint has been read only now."""
        self._begin_once(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `on_fit_begin` if training did not start."""
        self._begin_once(trainer, pl_module)

    def _begin_once(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._begun:
            self._begun = True
            self.on_fit_begin(trainer, pl_module)
