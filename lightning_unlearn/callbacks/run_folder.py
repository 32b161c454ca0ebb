"""Makes the Trainer's root folder a run folder: guards what it holds, and leaves model, run card and report in it.

At the end evaluation happens in `on_train_end` and this callback writes in `on_fit_end`, which Lightning calls later,
whatever the order of the callbacks. By then the model is back on the CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_unlearn import models
from lightning_unlearn.callbacks import run_card
from lightning_unlearn.callbacks.fit_begin import FitBegin
from lightning_unlearn.callbacks.throughput import StepWatch, count_tokens, peak_memory_gb, synchronize
from lightning_unlearn.evaluation.log import SAMPLES
from lightning_unlearn.files import write_whole
from lightning_unlearn.parts import is_sharded
from lightning_unlearn.report import write_report
from lightning_unlearn.report.runs import CARD, METRICS, REPORT, STRESS, read_object

NOTHING = {"train_seconds": 0.0, "wall_seconds": 0.0, "tokens": 0, "peak_gb": 0.0, "fits": 0}


class RunFolder(FitBegin):
    """Writes `run_card.json` when a fit starts, and again at its end with `model/` and `report.html`.

    Time, tokens and memory add up over resumes; what a killed process did after its last checkpoint is not counted.

    Args:
        redact: mask every text in the report.
        save_model: write `model/`, which `from_pretrained` loads, with LoRA merged into the weights.
        report: write `report.html`.
        overwrite: let a fresh fit replace the run that the folder holds; without it that is an error.
    """

    def __init__(
        self, *, redact: bool = False, save_model: bool = True, report: bool = True, overwrite: bool = False
    ) -> None:
        self.redact = redact
        self.save_model = save_model
        self.report = report
        self.overwrite = overwrite
        self._reset()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to count, and go first among the callbacks, so that none writes into a folder that is refused."""
        if stage == "fit":
            self._reset()
            others = [callback for callback in trainer.callbacks if callback is not self]
            trainer.callbacks = [self, *others]

    def on_fit_begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the folder and write the first run card.

        Raises:
            ValueError: the folder holds a run, and this fit neither resumes it nor may overwrite it; or the model that
                is to be saved cannot be.
        """
        self._device = trainer.strategy.root_device
        if _leaves_no_trace(trainer):
            return
        self._guard(trainer)
        if self.save_model and not hasattr(getattr(pl_module, "model", None), "save_pretrained"):
            name = type(pl_module).__name__
            raise ValueError(
                f"save_model: expected a module whose .model has save_pretrained, got {name}; set it to False"
            )
        if trainer.is_global_zero:
            root = Path(trainer.default_root_dir)
            root.mkdir(parents=True, exist_ok=True)
            begun = {"finished": False, "redacted": self.redact, "parameters": run_card.parameters(pl_module)}
            self._card = {**run_card.settings(trainer, pl_module), **begun}
            write_json(root / CARD, self._card)

    def _guard(self, trainer: Trainer) -> None:
        root, problem = Path(trainer.default_root_dir), None
        if trainer.is_global_zero and not resumes(trainer, root):
            held = holdings(root)
            if held and self.overwrite:
                remove_run(root, keep=[Path(logger.log_dir) for logger in trainer.loggers if logger.log_dir])
            elif held:
                problem = (
                    f"trainer.default_root_dir: expected a folder without a run, got {str(root)!r}, which holds "
                    f'{", ".join(held)}; continue it with ckpt_path "last", choose another folder, or set overwrite of '
                    "RunFolder"
                )
        problem = trainer.strategy.broadcast(problem)
        if problem:
            raise ValueError(problem)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock of training where it stands still."""
        self._watch.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self._tokens += count_tokens(batch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of training."""
        self._watch.pause()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the device, and stop the clock of training."""
        synchronize(pl_module.device)
        self._watch.pause()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stop the clock, and bring the curves to disk, so that a resumed run has them up to here."""
        self._watch.pause()
        for logger in trainer.loggers:
            logger.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather counts from all processes while they can still talk."""
        if trainer.world_size > 1:
            reduce, device = trainer.strategy.reduce, trainer.strategy.root_device
            peak = torch.tensor(int(self._totals()["peak_gb"] * 1e9), device=device)
            self._earlier["peak_gb"] = int(reduce(peak, reduce_op="max")) / 1e9
            self._tokens_of_all = int(reduce(torch.tensor(self._tokens, device=device), reduce_op="sum"))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the model, the finished run card and the report."""
        super().on_fit_end(trainer, pl_module)
        if _leaves_no_trace(trainer):
            return
        root, model = Path(trainer.default_root_dir), cast(nn.Module, pl_module.model)
        if self.save_model and (trainer.is_global_zero or is_sharded(model)):
            _replace_model(model, trainer, root / "model")
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.save()
        write_json(root / CARD, {**self._card, **self._results(trainer, pl_module)})
        if self.report:
            write_report(root)

    def state_dict(self) -> dict[str, Any]:
        """Totals so far; tokens of other processes are taken to be as many as this one's."""
        return self._totals()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the totals of the run so far."""
        self._earlier = {**NOTHING, **state_dict}

    def _reset(self) -> None:
        self._earlier: dict[str, Any] = dict(NOTHING)
        self._card: dict[str, Any] = {}
        self._began = time.perf_counter()
        self._watch = StepWatch()
        self._tokens = 0
        self._tokens_of_all: int | None = None
        self._device = torch.device("cpu")

    def _totals(self) -> dict[str, Any]:
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        tokens = self._tokens * world if self._tokens_of_all is None else self._tokens_of_all
        return {
            "train_seconds": self._earlier["train_seconds"] + self._watch.total(),
            "wall_seconds": self._earlier["wall_seconds"] + time.perf_counter() - self._began,
            "tokens": self._earlier["tokens"] + tokens,
            "peak_gb": max(self._earlier["peak_gb"], peak_memory_gb(self._device) or 0.0),
            "fits": self._earlier["fits"] + 1,
        }

    def _results(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        totals = self._totals()
        seconds, tokens = totals["train_seconds"], totals["tokens"]
        cuda = trainer.strategy.root_device.type == "cuda"
        return {
            "finished": True,
            "steps": trainer.global_step,
            "epochs": trainer.current_epoch,
            "tokens": {"seen": tokens, "per_second": tokens / seconds if seconds else None},
            "memory": {"peak_gb": totals["peak_gb"] or None, "kind": "CUDA allocated" if cuda else "process"},
            "time": {
                "train_seconds": seconds,
                "wall_seconds": totals["wall_seconds"],
                "fits": totals["fits"],
                "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
        }


def holdings(root: Path) -> list[str]:
    """What a folder holds that a fresh fit would spoil: checkpoints, a model, a finished run card."""
    model = root / "model"
    held = sorted(
        str(path.relative_to(root)) for pattern in ("*.ckpt", "checkpoints/**/*.ckpt") for path in root.glob(pattern)
    )
    held = [*held[:3], f"{len(held) - 3} more checkpoints"] if len(held) > 3 else held
    held += ["model/"] if model.is_dir() and any(model.iterdir()) else []
    return held + ([CARD] if read_object(root / CARD).get("finished") else [])


def resumes(trainer: Trainer, root: Path) -> bool:
    """Whether the fit starts from a checkpoint of this very folder, or of the folder its own checkpoints go to."""
    if not trainer.ckpt_path:
        return False
    checkpoint = Path(trainer.ckpt_path).resolve()
    homes = [root, *(getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks)]
    return any(home and Path(home).resolve() in checkpoint.parents for home in homes)


def remove_run(root: Path, keep: list[Path]) -> None:
    """Delete what an earlier run left in its folder, but for `keep` (the logs that this run has just begun).

    A reference cache stays: it holds nothing of the earlier run's training, is found by content, and this run, which
    made or opened it before, reads it.
    """
    kept = {path.resolve() for path in keep}
    for path in (
        root / "checkpoints",
        root / "model",
        root / STRESS,
        *root.glob("*logs/version_*"),
        *root.glob("*.ckpt"),
    ):
        if path.is_dir() and not path.is_symlink() and path.resolve() not in kept:
            shutil.rmtree(path)
        elif path.is_file() or path.is_symlink():
            path.unlink()
    for pattern in (CARD, METRICS, REPORT, f"{Path(SAMPLES).stem}*"):
        for path in root.glob(pattern):
            if path.is_file() or path.is_symlink():
                path.unlink()


def _leaves_no_trace(trainer: Trainer) -> bool:
    return bool(trainer.fast_dev_run)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def _replace_model(model: nn.Module, trainer: Trainer, folder: Path) -> None:
    """Save beside the old folder first, so that a kill in between leaves one of the two whole."""
    partial = folder.with_name("model.partial")
    if trainer.is_global_zero:
        shutil.rmtree(partial, ignore_errors=True)
    tokenizer = getattr(getattr(trainer, "datamodule", None), "tokenizer", None)
    models.save_model(model, tokenizer if hasattr(tokenizer, "save_pretrained") else None, partial)
    if trainer.is_global_zero:
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
