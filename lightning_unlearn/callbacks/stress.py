"""Attacks during training: whether what is being forgotten only seems to be."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_unlearn.attacks.base import Attack
from lightning_unlearn.attacks.exam import Exam, Scores
from lightning_unlearn.attacks.recovery import START, UNLEARNED
from lightning_unlearn.attacks.results import Results
from lightning_unlearn.callbacks.fit_begin import FitBegin
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.models import layer_count
from lightning_unlearn.parts import is_sharded


class Stress(FitBegin):
    """Attacks the model as it trains, and writes what the trained one shows to `stress/` of the run folder.

    At each check the largest score over the points of an attack is logged as "stress/<attack>/<score>", which
    checkpoints and early stopping may monitor. The starting model is attacked as well, so that the report can say how
    much comes back; `lightning-unlearn stress` adds a retrained model later, and measures again only what adapters were
    merged into.
    With several processes each makes the same attack, and they share out the rows that are asked.

    Args:
        attacks: what is tried.
        every_n_steps: optimiser steps between checks; None for the trained model alone.
        start: attack the starting model too.
        max_rows: most rows of a set; None for all.
        max_new_tokens: most tokens of a generated answer.
        batch_size: prompts in a batch of generation.

    Raises:
        ValueError: for a number out of range, or no attacks.
    """

    def __init__(
        self,
        attacks: Attack | list[Attack],
        *,
        every_n_steps: int | None = None,
        start: bool = True,
        max_rows: int | None = 100,
        max_new_tokens: int = 200,
        batch_size: int = 32,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.attacks = list(attacks) if isinstance(attacks, list | tuple) else [attacks]
        if not self.attacks:
            raise ValueError("attacks must hold an attack, got []")
        self.every_n_steps = every_n_steps
        self.start = start
        self.limits = {"max_rows": max_rows, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
        self._checked = 0  # the step of the last check

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before anything is trained that the attacks suit the rows.

        Raises:
            ValueError: without a data module of ours, or where its rows lack what an attack needs.
        """
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, UnlearningDataModule):
            raise ValueError(f"Stress needs an UnlearningDataModule, got {type(data).__name__}")
        self._check(trainer, None)

    def on_fit_begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attack the starting model, unless the fit continues another.

        Raises:
            ValueError: for a sharded model, or one that lacks what an attack needs.
        """
        if is_sharded(pl_module.model):
            raise ValueError(
                "Stress needs a whole model, got a sharded one: run `lightning-unlearn stress` on the finished run"
            )
        self._check(trainer, layer_count(pl_module.model))
        if self.start and trainer.ckpt_path is None:
            self._attack(trainer, pl_module, START)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Attack where so many optimiser steps are complete."""
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0 and step != self._checked:
            self._checked = step
            scores = self._attack(trainer, pl_module, None)
            pl_module.log_dict(scores, batch_size=1, logger=False)  # to monitor; a logger would repeat it at every step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attack the trained model, while it is still on its device."""
        self._attack(trainer, pl_module, UNLEARNED)

    def _check(self, trainer: Trainer, layers: int | None) -> None:
        for attack in self.attacks:
            attack.check(self._exam(trainer, layers))

    def _attack(self, trainer: Trainer, pl_module: LightningModule, name: str | None) -> Scores:
        """Log and return the largest scores of each attack, and keep the points of a model that has a name."""
        folder = None if name is None or trainer.fast_dev_run else Path(trainer.default_root_dir)
        plugin, found = trainer.precision_plugin, {}
        with plugin.forward_context() if isinstance(plugin, MixedPrecision) else nullcontext():
            for attack in self.attacks:
                _, *attacked = Results(attack, self._exam(trainer), folder).measure(name or UNLEARNED, pl_module.model)
                for score in attack.scores:
                    if values := [point[score] for point in attacked if score in point]:
                        found[f"stress/{attack.name}/{score}"] = max(values)
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)
        return found

    def _exam(self, trainer: Trainer, layers: int | None = None) -> Exam:
        return Exam(trainer.datamodule, **self.limits, layers=layers)
