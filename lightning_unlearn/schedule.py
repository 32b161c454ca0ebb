"""Warm-up and decay of the learning rate, by optimiser step."""

from __future__ import annotations

from math import ceil, inf
from typing import Any

import lightning as L
from torch.optim import Optimizer
from transformers import get_scheduler

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def warm_up_and_decay(trainer: L.Trainer, optimizer: Optimizer, kind: str, warmup_epochs: float) -> dict[str, Any]:
    """Return optimiser and schedule as `configure_optimizers` does, once the batches of an epoch can be counted.

    Args:
        trainer: whose last epoch, or last step, ends the schedule.
        optimizer: with the largest learning rate.
        kind: one of `SCHEDULES`.
        warmup_epochs: length of the linear warm-up, in epochs.

    Raises:
        ValueError: if the Trainer has neither a last epoch nor a last step.
    """
    trainer.fit_loop.setup_data()
    steps = trainer.estimated_stepping_batches
    if steps == inf:
        raise ValueError("max_epochs or max_steps of the Trainer must be set, so that the schedule has an end")
    epoch_steps = ceil(min(trainer.num_training_batches / trainer.accumulate_grad_batches, steps))
    warmup = round(min(warmup_epochs * epoch_steps, steps))
    schedule = get_scheduler(SCHEDULES[kind], optimizer, warmup, int(steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
