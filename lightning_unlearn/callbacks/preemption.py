"""SIGTERM, with which schedulers take a machine away: end soon, and leave what continues the run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

EXIT_CODE = 128 + signal.SIGTERM  # what a shell says of a process that SIGTERM ended


class SaveOnSigterm(Callback):
    """Ends the process with 143 after SIGTERM, having written `checkpoints/last.ckpt` if it was training.

    In training that is after the optimiser step in which SIGTERM came. An evaluation by `Evaluate` before or after
    training, or of `trainer.test` and `trainer.validate`, ends once the rows in work are finished. One at a validation
    during training is finished first, and then the next step: its scores belong to early stopping and the best
    checkpoint, and no checkpoint can lie inside it.

    The processes agree on it, so that it is enough that one of them is told. `--ckpt_path last` continues the run, to
    the same end as if it had not been stopped.

    Args:
        filename: of the checkpoint in the run folder.
    """

    def __init__(self, *, filename: str = "checkpoints/last.ckpt") -> None:
        self.filename = filename
        self.told = False
        self._step = 0
        self._saved: int | None = None  # the step
        self._trains = False
        self._handler = ExitStack()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it SIGTERM is only noted, in `told`."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "told", True))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what an earlier run of the Trainer was told."""
        self.told, self._saved = False, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over from Lightning's handler, which talks to the other processes whatever they are doing."""
        self.told, self._step = self.told or trainer.received_sigterm, trainer.global_step
        self._trains = True
        self._handler.enter_context(self.listening())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save and end where any process was told to, once a step is complete.

        Raises:
            SIGTERMException: which ends the process.
        """
        if trainer.global_step == self._step:  # gradients are still being summed
            return
        self._step = trainer.global_step
        told = torch.tensor(int(self.told), device=trainer.strategy.root_device)
        if int(trainer.strategy.reduce(told, reduce_op="max")):
            self._save(trainer)
            raise SIGTERMException(EXIT_CODE)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the handler back that was there before."""
        self._trains = False
        self._handler.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the trained model where its evaluation was stopped, and put the handler back."""
        agreed = isinstance(exception, SIGTERMException) and exception.code == EXIT_CODE
        if agreed and self._trains and self._saved != trainer.global_step:
            self._save(trainer)
        self.on_train_end(trainer, pl_module)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / self.filename)
        self._saved = trainer.global_step
        rank_zero_info(f'SIGTERM: saved at step {trainer.global_step}; continue with ckpt_path "last"')


@contextmanager
def listening(trainer: Trainer) -> Iterator[Callable[[], bool]]:
    """Within it a function tells whether the process was told to end; never so without a `SaveOnSigterm`."""
    callback = next((callback for callback in trainer.callbacks if isinstance(callback, SaveOnSigterm)), None)
    if callback is None:
        yield lambda: False
        return
    with callback.listening():
        yield lambda: callback.told or trainer.received_sigterm
