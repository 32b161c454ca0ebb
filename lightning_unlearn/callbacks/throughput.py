"""Logs how fast a run trains and how much memory it takes.

Lightning's ThroughputMonitor counts samples of equal length; a packed batch has neither, so tokens are counted here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Throughput(Callback):
    """Logs `train/tokens_per_second` (of this process) and `train/peak_memory_gb` as often as the Trainer logs.

    Time spent on evaluation and on writing checkpoints does not count; time spent on loading batches does.
    """

    def __init__(self) -> None:
        self.watch = StepWatch()
        self.tokens = 0
        self.measured: dict[str, float] = {}
        self.measured_at = 0  # the optimiser step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock where it stands still."""
        self.watch.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; after every `log_every_n_steps` steps wait for the device and measure."""
        self.tokens += count_tokens(batch)
        step, often = trainer.global_step, trainer.log_every_n_steps
        if step != self.measured_at and step % often == 0:
            self.measured_at = step
            synchronize(pl_module.device)
            seconds, tokens, self.tokens = self.watch.lap(), self.tokens, 0
            self.measured = {"train/peak_memory_gb": peak_memory_gb(pl_module.device) or 0.0}
            if seconds > 0:
                self.measured["train/tokens_per_second"] = tokens / seconds
        pl_module.log_dict(self.measured)  # Lightning picks the steps at which it reaches the loggers

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.watch.pause()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.watch.pause()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stop the clock."""
        self.watch.pause()


class StepWatch:
    """A stopwatch that is started by every step and paused by whatever is not training.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds = 0.0
        self.since: float | None = None

    def start(self) -> None:
        """Run, unless it runs already."""
        if self.since is None:
            self.since = self.clock()

    def pause(self) -> None:
        """Stand still until the next start."""
        self.seconds = self.total()
        self.since = None

    def total(self) -> float:
        """Seconds since the last lap without the pauses."""
        return self.seconds + (self.clock() - self.since if self.since is not None else 0.0)

    def lap(self) -> float:
        """Return the total and begin again from zero, running on if it runs."""
        total = self.total()
        self.seconds = 0.0
        self.since = self.clock() if self.since is not None else None
        return total


def count_tokens(batch: Any) -> int:
    """The tokens that the model reads: of a packed batch, of padded roles without their padding; 0 of anything else."""
    if isinstance(batch, Mapping):
        if "input_ids" in batch:
            mask = batch.get("attention_mask")
            return int(mask.sum()) if mask is not None else batch["input_ids"].numel()
        return sum(count_tokens(role) for role in batch.values())
    ids = getattr(batch, "input_ids", None)
    return ids.numel() if isinstance(ids, torch.Tensor) else 0


def peak_memory_gb(device: torch.device) -> float | None:
    """The most memory taken so far in GB (10^9 bytes): allocated on a CUDA device, else resident in this process.

    None where the system does not tell (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done what it was given; others never lag behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
