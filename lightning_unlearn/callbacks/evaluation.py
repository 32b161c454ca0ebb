"""Evaluates a run: before training, during it, after it, and on `trainer.validate` and `trainer.test`.

Sets and encoder come from the trainer's data module, the model from the module's `model`. Several ranks share the rows;
rank 0 alone reads and writes files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from lightning_unlearn.callbacks.evaluation_data import set_options, sets_and_encoder, texts
from lightning_unlearn.callbacks.fit_begin import FitBegin
from lightning_unlearn.callbacks.monitors import check_monitored, logged, monitored
from lightning_unlearn.callbacks.preemption import EXIT_CODE, listening
from lightning_unlearn.callbacks.run_files import METRICS, RunFiles
from lightning_unlearn.callbacks.run_folder import RunFolder
from lightning_unlearn.callbacks.throughput import Throughput
from lightning_unlearn.evaluation import tofu
from lightning_unlearn.evaluation.bootstrap import RESAMPLES, difference_intervals, intervals
from lightning_unlearn.evaluation.criterion import Criterion
from lightning_unlearn.evaluation.log import Log, failures, group_by_set
from lightning_unlearn.evaluation.protocols import evaluated, find_protocol, missing, names, protocol_names, scores
from lightning_unlearn.evaluation.run import EvaluationStopped, evaluate, part_of, substitutes
from lightning_unlearn.fingerprint import fingerprint
from lightning_unlearn.metrics.nli import DEFAULT_NLI_MODEL, NLIModel, load_nli_model
from lightning_unlearn.metrics.sentence_encoder import (
    DEFAULT_SENTENCE_ENCODER,
    SentenceEncoder,
    load_sentence_encoder,
)
from lightning_unlearn.models import load_causal_lm
from lightning_unlearn.processes import from_first, together
from lightning_unlearn.usage import naming

PROTOCOLS = ("tofu", "closer_look", "memorization", "privacy", "unlearning_score")
CHANGE = "after - before"  # in the intervals of metrics.json


class Evaluate(FitBegin):
    """Writes `metrics.json` and `samples.jsonl` into the run folder, and logs "eval/<metric>" at each validation.

    At fit start the starting model is evaluated ("before"), at its end the trained one ("after"); a fit that continues
    from a checkpoint keeps "before", a fresh fit in the same folder starts over. `trainer.test` evaluates all rows
    ("test"), `trainer.validate` those of training; both log. An evaluation that was stopped goes on where it was, with
    any number of ranks: samples of the same weights, rows and settings are not computed again. With `SaveOnSigterm`
    SIGTERM ends one soon.

    Beside the scores of each stage `metrics.json` has their 95 % intervals ("intervals", by resampling rows), the rows
    that could not be evaluated ("failed"), and what a score lacks that could not be computed ("missing").

    Args:
        protocols: which numbers: names of modules of `lightning_unlearn.evaluation`, of which "closer_look" needs the
            two judging models, or import paths of functions of a log.
        max_rows: most rows a set, spread over it; None for all.
        training_max_rows: most rows a set at a validation during training; 0 for no evaluation then, None for
            `max_rows`.
        every_n_steps: evaluate the rows of training after so many optimiser steps too; None for validations alone.
        criterion: makes one number of the scores, logged as "eval/criterion", to rank checkpoints by.
        resamples: how often rows are drawn for an interval; 0 for no intervals.
        max_new_tokens: most tokens of a generated answer.
        batch_size: prompts in a batch of generation.
        sentence_encoder: hub name, local folder, callable, or "lexical" (recorded as a substitute).
        entailment: hub name, local folder, callable, or "lexical" (recorded as a substitute).
        retrained: run folder or log of a model trained without the forget rows; gives forget quality.
        attack_reference: hub name or folder of a model that the reference attack compares with; it is held in memory
            beside the trained one. Not at validations.
        gradient_norms: whether there is an attack by gradient norms, which takes a backward pass over forget and
            holdout rows. Not at validations.
        redact: mask every text in `samples.jsonl`.
        progress: show progress bars.

    Raises:
        ValueError: for an unknown protocol, or none, or a number out of range.
    """

    def __init__(
        self,
        *,
        protocols: Sequence[str] = PROTOCOLS,
        max_rows: int | None = 400,
        training_max_rows: int | None = 40,
        every_n_steps: int | None = None,
        criterion: Criterion | None = None,
        resamples: int = RESAMPLES,
        max_new_tokens: int = 200,
        batch_size: int = 32,
        sentence_encoder: str | Path | SentenceEncoder = DEFAULT_SENTENCE_ENCODER,
        entailment: str | Path | NLIModel = DEFAULT_NLI_MODEL,
        retrained: str | Path | None = None,
        attack_reference: str | Path | None = None,
        gradient_norms: bool = False,
        redact: bool = False,
        progress: bool = True,
    ) -> None:
        if not protocols:
            raise ValueError("protocols must name one at least, got none")
        for name, value, least in (
            ("max_rows", max_rows, 1),
            ("training_max_rows", training_max_rows, 0),
            ("every_n_steps", every_n_steps, 1),
            ("resamples", resamples, 0),
            ("max_new_tokens", max_new_tokens, 1),
            ("batch_size", batch_size, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if every_n_steps is not None and training_max_rows == 0:
            raise ValueError(f"training_max_rows must be above 0 with every_n_steps={every_n_steps}, got 0")
        self.protocols = tuple(protocols)
        self.max_rows = max_rows
        self.training_max_rows = training_max_rows
        self.every_n_steps = every_n_steps
        self.criterion = criterion
        self.resamples = resamples
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.sentence_encoder = sentence_encoder
        self.entailment = entailment
        self.retrained = retrained
        self.attack_reference = attack_reference
        self.gradient_norms = gradient_norms
        self.redact = redact
        self.progress = progress
        self._judges: dict[str, Any] = {"sentence_encoder": None, "entailment": None}
        self._reference: nn.Module | None = None
        self._functions = [find_protocol(name) for name in protocols]
        self._retrained_log: Log | None = None
        self._start_log: Log | None = None
        self._finished = False
        self._evaluated: tuple[int, dict[str, float]] = (0, {})  # the optimiser step, and what was found

    # -- hooks --------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out what is missing before anything is trained: sets, judging models, the retrained model's log."""
        sets, _ = sets_and_encoder(trainer)
        if any(sets.get(name) for name in tofu.UTILITY_SETS):
            tofu.utility_sets({name: [{}] for name, records in sets.items() if records})
        if "closer_look" in self.protocols and self._judges["entailment"] is None:
            device = trainer.strategy.root_device
            self._judges = together(
                lambda: {
                    "sentence_encoder": load_sentence_encoder(self.sentence_encoder, device=device),
                    "entailment": load_nli_model(self.entailment, device=device),
                }
            )
        if self.attack_reference is not None and self._reference is None:
            with naming("attack_reference"):
                self._reference = load_causal_lm(self.attack_reference).eval().to(trainer.strategy.root_device)
        if self.retrained is not None:
            with naming("retrained"):
                self._retrained_log = from_first(lambda: tofu.read_log(self.retrained))
        if stage != "fit":
            self._start_log = group_by_set(RunFiles(trainer).samples("before"))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go first, so that `on_fit_end` comes before the callback that writes the report."""
        self._finished = False
        trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]
        super().on_fit_start(trainer, pl_module)

    def on_fit_begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the starting model, unless the fit continues one that did."""
        if trainer.fast_dev_run:
            return
        run = RunFiles(trainer)
        if trainer.ckpt_path is None:
            run.clear(keep="before")  # a start that was stopped goes on
            self._check_names_early(trainer, pl_module)
            self._start_log = log = self._evaluate_stage(trainer, pl_module, "before")
            self._check_names(trainer, log)
            self._log_start(trainer, log)
        else:
            self._start_log = group_by_set(run.samples("before"))
            self._check_names(trainer, self._start_log)
            if run.metrics().get("before") is None:
                rank_zero_warn(
                    f"{run.folder / METRICS} has no evaluation of the starting model, and a fit that continues from a "
                    "checkpoint can make none: the report will lack it"
                )
        self._copy_retrained(run)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know which step the fit goes on from: it was evaluated before the checkpoint."""
        super().on_train_start(trainer, pl_module)
        self._evaluated = trainer.global_step, {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate the rows of training where so many optimiser steps are complete; no other clock counts it."""
        step = trainer.global_step
        if self.every_n_steps is None or step % self.every_n_steps or step == self._evaluated[0]:
            return
        for callback in trainer.callbacks:
            if isinstance(callback, (Throughput, RunFolder)):
                callback.on_validation_start(trainer, pl_module)
        self._log_step(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the rows of training and log "eval/<metric>", which checkpoints and early stopping may monitor."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        if trainer.sanity_checking or (fitting and self.training_max_rows == 0):
            return
        if fitting and self.every_n_steps is not None:
            self._log_step(trainer, pl_module)
            return
        log = self._evaluate_some(trainer, pl_module)
        pl_module.log_dict(self._values(trainer, log), batch_size=1, sync_dist=True)
        for row in [] if fitting else failures(log):  # of which no file tells
            rank_zero_warn(f"row {row['index']} of {row['set']}: {row['why']}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the trained model, while it is still on its device."""
        self._finished = True
        if not trainer.fast_dev_run:
            self._evaluate_stage(trainer, pl_module, "after")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the trained model where nothing was left to train: the fit had been stopped while it evaluated."""
        super().on_fit_end(trainer, pl_module)
        if not self._finished:
            pl_module.to(trainer.strategy.root_device)
            self._evaluate_stage(trainer, pl_module, "after")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate all rows, log "eval/<metric>" and write stage "test"."""
        log = self._evaluate_stage(trainer, pl_module, "test")
        values = logged(self.scores(log, self._retrained_log, self._start_log))
        pl_module.log_dict(values, batch_size=1, sync_dist=True)

    # -- what they share ----------------------------------------------------------------------------------------------

    def scores(self, log: Log, retrained_log: Log | None = None, start_log: Log | None = None) -> dict[str, float]:
        """Compute the numbers of the chosen protocols that the logs allow, and the criterion where they allow it."""
        found = scores(self._functions, log, retrained_log, start_log)
        if self.criterion is not None and found.keys() >= set(self.criterion.keys):
            found["criterion"] = self.criterion(found)
        return found

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on beside model and data."""
        return {
            "protocols": list(self.protocols),
            "max_rows": self.max_rows,
            "max_new_tokens": self.max_new_tokens,
            "sentence_encoder": _name(self.sentence_encoder),
            "entailment": _name(self.entailment),
            "attack_reference": None if self.attack_reference is None else str(self.attack_reference),
            "gradient_norms": self.gradient_norms,
        }

    def _log_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rows of training at an optimiser step, evaluated once where a validation falls on it."""
        step = trainer.global_step
        if self._evaluated[0] != step or not self._evaluated[1]:
            self._evaluated = step, self._values(trainer, self._evaluate_some(trainer, pl_module))
            for logger in trainer.loggers:  # whatever log_every_n_steps is; steps count from 0, as Lightning has them
                logger.log_metrics(self._evaluated[1], step=step - 1)
        pl_module.log_dict(self._evaluated[1], logger=False, batch_size=1, sync_dist=True)

    def _training_rows(self, trainer: Trainer) -> int | None:
        limits = [rows for rows in (self.training_max_rows, self.max_rows, int(trainer.fast_dev_run)) if rows]
        return min(limits, default=None)

    def _values(self, trainer: Trainer, log: Log) -> dict[str, float]:
        """Score rows of training, compared with the starting model on the same rows: "eval/<metric>".

        A score that this model lacks, as no row could be evaluated or it is no number, is NaN: what monitors it goes
        on, or stops the run in its own way.
        """
        start = part_of(self._start_log or {}, sets_and_encoder(trainer)[0], self._training_rows(trainer))
        known = [*self._names(start, start), *self._names(log, start)]
        if evaluated(log).keys() < {name for name, samples in log.items() if samples}:
            known += monitored(trainer.callbacks)
        return logged({**dict.fromkeys(known, nan), **self.scores(log, self._retrained_log, start)})

    def _log_start(self, trainer: Trainer, log: Log) -> None:
        """Put the starting model on the curves, judged by the rows that validations during training will use."""
        if self.training_max_rows != 0:
            rows = part_of(log, sets_and_encoder(trainer)[0], self._training_rows(trainer))
            for logger in trainer.loggers:
                logger.log_metrics(logged(self.scores(rows, self._retrained_log, rows)), step=trainer.global_step)

    def _names(self, log: Log, start_log: Log) -> list[str]:
        """Name the scores of a log, the criterion among them where it can be made."""
        found = names(self._functions, log, self._retrained_log, start_log)
        return [*found, "criterion"] if self.criterion is not None and {*self.criterion.keys} <= {*found} else found

    def _check_names(self, trainer: Trainer, log: Log) -> None:
        """Refuse a misspelt score now, and not when the first epoch ends; one of rows that all failed may be right."""
        sets = {name: records for name, records in sets_and_encoder(trainer)[0].items() if records}
        rows = part_of(log, sets, self._training_rows(trainer))
        if evaluated(rows).keys() < sets.keys():
            return
        found = self._names(rows, rows)
        if self.criterion is not None:
            self.criterion.check(found)
        check_monitored(trainer.callbacks, found if self.training_max_rows != 0 else [])

    def _check_names_early(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a misspelt score by a few rows; they are kept, and need not be evaluated again.

        Our protocols have the same scores of one row of each set as of many, others may not.
        """
        if self.criterion is not None or monitored(trainer.callbacks):
            rows = 1 if {*self.protocols} <= {*protocol_names()} else self._training_rows(trainer)
            self._check_names(trainer, self._evaluate_files(trainer, pl_module, "before", max_rows=rows))

    def _copy_retrained(self, run: RunFiles) -> None:
        if self._retrained_log is not None:
            rows = [{"set": name} | row for name, rows in self._retrained_log.items() for row in rows]
            run.drop(lambda sample: sample.get("stage") == "retrained")
            run.append([row | {"stage": "retrained"} for row in rows], masked=self.redact)
            self._write(run, "retrained", self._retrained_log, self._start_log)

    def _evaluate_stage(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> Log:
        """Evaluate into the run's files, scores and all."""
        run, settings = RunFiles(trainer), self.settings()
        log = self._evaluate_files(trainer, pl_module, stage, max_rows=self.max_rows)
        named = substitutes(self.sentence_encoder, self.entailment) if "closer_look" in self.protocols else {}
        guards = getattr(trainer.datamodule, "guards", "")
        if guards:  # which makes the scores better, and the model no better
            settings |= {"not_erased": f"answers follow from {guards}, the model still knows what it knew"}
        run.update(substitutes=named, settings=settings)
        self._write(run, stage, log, log if stage == "before" else self._start_log)
        return log

    def _evaluate_files(self, trainer: Trainer, pl_module: LightningModule, stage: str, *, max_rows: int | None) -> Log:
        """Evaluate rows into the run's samples, going on from those of the same weights and settings."""
        run = RunFiles(trainer)
        about = [self.settings(), self.redact, fingerprint(pl_module.model), texts(trainer)]
        stamp = {"stage": stage, "step": trainer.global_step, "about": _digest(about)}
        run.drop(lambda sample: sample.get("stage") == stage and not stamp.items() <= sample.items())
        return self._evaluate(
            trainer,
            pl_module,
            max_rows=max_rows,
            done=run.samples(stage),
            reference=self._reference,
            gradient_norms=self.gradient_norms,
            on_samples=lambda samples: run.append([sample | stamp for sample in samples], masked=self.redact),
        )

    def _write(self, run: RunFiles, stage: str, log: Log, start_log: Log | None) -> None:
        """Write what a log says of a stage into `metrics.json`."""
        if run.writes:
            logs, drawn = (log, self._retrained_log, start_log), {}
            if self.resamples:
                drawn[stage] = intervals(self.scores, *logs, resamples=self.resamples)
            if self.resamples and stage == "after" and start_log:
                alone = partial(scores, self._functions)
                drawn[CHANGE] = difference_intervals(alone, log, start_log, resamples=self.resamples)
            failed, lacking = failures(log), missing(self._functions, *logs)
            told = {"intervals": drawn, "failed": {stage: failed}, "missing": {stage: lacking}}
            run.update(**{stage: self.scores(*logs)}, **told)

    def _evaluate_some(self, trainer: Trainer, pl_module: LightningModule) -> Log:
        """Evaluate the rows of training; in a fit to the end, as no checkpoint can lie inside."""
        interruptible = trainer.state.fn != TrainerFn.FITTING
        rows = self._training_rows(trainer)
        return self._evaluate(trainer, pl_module, max_rows=rows, interruptible=interruptible)

    def _evaluate(
        self, trainer: Trainer, pl_module: LightningModule, *, interruptible: bool = True, **options: Any
    ) -> Log:
        sets, encoder = sets_and_encoder(trainer)
        plugin = trainer.precision_plugin
        mixed = plugin.forward_context() if isinstance(plugin, MixedPrecision) else nullcontext()
        # Not in Lightning's inference mode: what the model caches there could not take part in training.
        with torch.inference_mode(False), mixed, listening(trainer) as told:
            try:
                return evaluate(
                    pl_module.model,
                    encoder,
                    sets,
                    set_options=set_options(trainer),
                    max_new_tokens=self.max_new_tokens,
                    batch_size=self.batch_size,
                    progress=self.progress,
                    stop=told if interruptible else None,
                    **self._judges,
                    **options,
                )
            except EvaluationStopped as stopped:
                rank_zero_info(f"SIGTERM: evaluation {stopped}")
                raise SIGTERMException(EXIT_CODE) from None


def _name(judge: Any) -> str:
    return getattr(judge, "__qualname__", type(judge).__qualname__) if callable(judge) else str(judge)


def _digest(about: Any) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
