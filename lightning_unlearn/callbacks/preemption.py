"""SIGTERM, with which schedulers take a machine away: save at the end of the optimiser step, and go."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

EXIT_CODE = 128 + signal.SIGTERM  # what a shell says of a process that SIGTERM ended


class SaveOnSigterm(Callback):
    """Writes `checkpoints/last.ckpt` after the optimiser step in which SIGTERM came, and ends the process with 143.

    The processes agree on it after every step, so that it is enough that one of them is told. `--ckpt_path last`
    continues the run, to the same end as if it had not been stopped. An evaluation that is cut off continues too.

    Args:
        filename: of the checkpoint in the run folder.
    """

    def __init__(self, *, filename: str = "checkpoints/last.ckpt") -> None:
        self.filename = filename
        self._told = False
        self._step = 0
        self._before: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over from Lightning's handler, which talks to the other processes whatever they are doing."""
        self._told, self._step = trainer.received_sigterm, trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_told", True))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and end where any process was told to, once a step is complete.

        Raises:
            SIGTERMException: which ends the process.
        """
        if trainer.global_step == self._step:  # gradients are still being summed
            return
        self._step = trainer.global_step
        told = torch.tensor(int(self._told), device=trainer.strategy.root_device)
        if not int(trainer.strategy.reduce(told, reduce_op="max")):
            return
        trainer.save_checkpoint(Path(trainer.default_root_dir) / self.filename)
        rank_zero_info(f'SIGTERM: saved at step {trainer.global_step}; continue with ckpt_path "last"')
        raise SIGTERMException(EXIT_CODE)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the handler back that was there before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Do the same."""
        self.on_train_end(trainer, pl_module)
