"""Evaluates a run: before training, during it, after it, and on `trainer.validate` and `trainer.test`.

Sets and encoder come from the trainer's data module, the model from the module's `model`. Several ranks share the rows;
rank 0 alone reads and writes files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_unlearn.callbacks.fit_begin import FitBegin
from lightning_unlearn.callbacks.preemption import EXIT_CODE, listening
from lightning_unlearn.callbacks.run_files import METRICS, RunFiles
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.set_options import SetOptions
from lightning_unlearn.evaluation import closer_look, tofu
from lightning_unlearn.evaluation.log import Log
from lightning_unlearn.evaluation.run import EvaluationStopped, evaluate, select_rows, substitutes
from lightning_unlearn.fingerprint import fingerprint
from lightning_unlearn.metrics.nli import DEFAULT_NLI_MODEL, NLIModel, load_nli_model
from lightning_unlearn.metrics.sentence_encoder import (
    DEFAULT_SENTENCE_ENCODER,
    SentenceEncoder,
    load_sentence_encoder,
)
from lightning_unlearn.processes import from_first, together

PROTOCOLS = ("tofu", "closer_look")


class Evaluate(FitBegin):
    """Writes `metrics.json` and `samples.jsonl` into the run folder, and logs "eval/<metric>" at each validation.

    At fit start the starting model is evaluated ("before"), at its end the trained one ("after"); a fit that continues
    from a checkpoint keeps "before", a fresh fit in the same folder starts over. `trainer.test` evaluates all rows
    ("test"), `trainer.validate` those of training; both log. An evaluation that was stopped goes on where it was, with
    any number of ranks: samples of the same weights, rows and settings are not computed again. With `SaveOnSigterm`
    SIGTERM ends one soon.

    Args:
        protocols: which numbers: "tofu" alone, or "tofu" and "closer_look" (needs the two judging models).
        max_rows: most rows a set, spread over it; None for all.
        training_max_rows: most rows a set at a validation during training; 0 for no evaluation then, None for
            `max_rows`.
        max_new_tokens: most tokens of a generated answer.
        batch_size: prompts in a batch of generation.
        sentence_encoder: hub name, local folder, callable, or "lexical" (recorded as a substitute).
        entailment: hub name, local folder, callable, or "lexical" (recorded as a substitute).
        retrained: run folder or log of a model trained without the forget rows; gives forget quality.
        redact: mask every text in `samples.jsonl`.
        progress: show progress bars.

    Raises:
        ValueError: for an unknown protocol or a number out of range.
    """

    def __init__(
        self,
        *,
        protocols: Sequence[str] = PROTOCOLS,
        max_rows: int | None = 400,
        training_max_rows: int | None = 40,
        max_new_tokens: int = 200,
        batch_size: int = 32,
        sentence_encoder: str | Path | SentenceEncoder = DEFAULT_SENTENCE_ENCODER,
        entailment: str | Path | NLIModel = DEFAULT_NLI_MODEL,
        retrained: str | Path | None = None,
        redact: bool = False,
        progress: bool = True,
    ) -> None:
        unknown = sorted(set(protocols) - set(PROTOCOLS))
        if unknown or "tofu" not in protocols:
            raise ValueError(f'protocols must be "tofu", or "tofu" and "closer_look", got {list(protocols)}')
        for name, value, least in (
            ("max_rows", max_rows, 1),
            ("training_max_rows", training_max_rows, 0),
            ("max_new_tokens", max_new_tokens, 1),
            ("batch_size", batch_size, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.protocols = tuple(protocols)
        self.max_rows = max_rows
        self.training_max_rows = training_max_rows
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.sentence_encoder = sentence_encoder
        self.entailment = entailment
        self.retrained = retrained
        self.redact = redact
        self.progress = progress
        self._judges: dict[str, Any] = {"sentence_encoder": None, "entailment": None}
        self._retrained_log: Log | None = None
        self._finished = False

    # -- hooks --------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out what is missing before anything is trained: sets, judging models, the retrained model's log."""
        sets, _ = _data(trainer)
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
        if self.retrained is not None:
            self._retrained_log = from_first(lambda: tofu.read_log(self.retrained))

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
            log = self._evaluate_stage(trainer, pl_module, "before")
            self._check_monitors(trainer, log)
            self._log_start(trainer, log)
        elif run.metrics().get("before") is None:
            rank_zero_warn(
                f"{run.folder / METRICS} has no evaluation of the starting model, and a fit that continues from a "
                "checkpoint can make none: the report will lack it"
            )
        self._copy_retrained(run)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the rows of training and log "eval/<metric>", which checkpoints and early stopping may monitor."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        if trainer.sanity_checking or (fitting and self.training_max_rows == 0):
            return
        self._log(pl_module, self._evaluate(trainer, pl_module, max_rows=self._training_rows(trainer)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the trained model, while it is still on its device."""
        self._finished = True
        if not trainer.fast_dev_run:
            self._evaluate_stage(trainer, pl_module, "after")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the trained model where nothing was left to train: the fit had been stopped while it evaluated."""
        if not self._finished:
            pl_module.to(trainer.strategy.root_device)
            self._evaluate_stage(trainer, pl_module, "after")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate all rows, log "eval/<metric>" and write stage "test"."""
        self._log(pl_module, self._evaluate_stage(trainer, pl_module, "test"))

    # -- what they share ----------------------------------------------------------------------------------------------

    def scores(self, log: Log) -> dict[str, float]:
        """Compute the numbers of the chosen protocols that the log allows."""
        scores = tofu.scores(log, self._retrained_log)
        if "closer_look" in self.protocols and closer_look.has_text_metrics(log):
            scores |= closer_look.scores(log)
        return scores

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on beside model and data."""
        return {
            "protocols": list(self.protocols),
            "max_rows": self.max_rows,
            "max_new_tokens": self.max_new_tokens,
            "sentence_encoder": _name(self.sentence_encoder),
            "entailment": _name(self.entailment),
        }

    def _training_rows(self, trainer: Trainer) -> int | None:
        limits = [rows for rows in (self.training_max_rows, self.max_rows, int(trainer.fast_dev_run)) if rows]
        return min(limits, default=None)

    def _log_start(self, trainer: Trainer, log: Log) -> None:
        """Put the starting model on the curves, judged by the rows that validations during training will use."""
        if self.training_max_rows != 0:
            rows = _part(log, _data(trainer)[0], self._training_rows(trainer))
            values = {f"eval/{key}": value for key, value in self.scores(rows).items()}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)

    def _check_monitors(self, trainer: Trainer, log: Log) -> None:
        """Refuse a misspelt score now, and not when the first epoch ends."""
        known = [f"eval/{key}" for key in self.scores(log)] if self.training_max_rows != 0 else []
        for monitor in filter(None, (getattr(callback, "monitor", None) for callback in trainer.callbacks)):
            if monitor.startswith("eval/") and monitor not in known:
                scores = ", ".join(known) or "none, as training_max_rows is 0"
                raise ValueError(f"monitor must be a score of this evaluation, got {monitor!r}; there are: {scores}")

    def _log(self, pl_module: LightningModule, log: Log) -> None:
        values = {f"eval/{key}": value for key, value in self.scores(log).items()}
        pl_module.log_dict(values, batch_size=1, sync_dist=True)

    def _copy_retrained(self, run: RunFiles) -> None:
        if self._retrained_log is not None:
            rows = [{"set": name} | row for name, rows in self._retrained_log.items() for row in rows]
            run.drop(lambda sample: sample.get("stage") == "retrained")
            run.append([row | {"stage": "retrained"} for row in rows], masked=self.redact)
            run.update(retrained=self.scores(self._retrained_log))

    def _evaluate_stage(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> Log:
        """Evaluate into the run's files, going on from samples of the same weights and settings."""
        run, settings = RunFiles(trainer), self.settings()
        about = [settings, self.redact, fingerprint(pl_module.model), _texts(trainer)]
        stamp = {"stage": stage, "step": trainer.global_step, "about": _digest(about)}
        run.drop(lambda sample: sample.get("stage") == stage and not stamp.items() <= sample.items())
        log = self._evaluate(
            trainer,
            pl_module,
            max_rows=self.max_rows,
            done=run.samples(stage),
            on_samples=lambda samples: run.append([sample | stamp for sample in samples], masked=self.redact),
        )
        named = substitutes(self.sentence_encoder, self.entailment) if "closer_look" in self.protocols else {}
        guards = getattr(trainer.datamodule, "guards", "")
        if guards:  # which makes the scores better, and the model no better
            settings |= {"not_erased": f"answers follow from {guards}, the model still knows what it knew"}
        run.update(**{stage: self.scores(log)}, substitutes=named, settings=settings)
        return log

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, **options: Any) -> Log:
        sets, encoder = _data(trainer)
        plugin = trainer.precision_plugin
        mixed = plugin.forward_context() if isinstance(plugin, MixedPrecision) else nullcontext()
        # Not in Lightning's inference mode: what the model caches there could not take part in training.
        with torch.inference_mode(False), mixed, listening(trainer) as told:
            try:
                return evaluate(
                    pl_module.model,
                    encoder,
                    sets,
                    set_options=_set_options(trainer),
                    max_new_tokens=self.max_new_tokens,
                    batch_size=self.batch_size,
                    progress=self.progress,
                    stop=None if _inside_training(trainer) else told,
                    **self._judges,
                    **options,
                )
            except EvaluationStopped as stopped:
                rank_zero_info(f"SIGTERM: evaluation {stopped}")
                raise SIGTERMException(EXIT_CODE) from None


def _inside_training(trainer: Trainer) -> bool:
    """Whether this is a validation of a fit, inside which no checkpoint can lie."""
    return trainer.state.fn == TrainerFn.FITTING and bool(trainer.validating)


def _texts(trainer: Trainer) -> list[Any]:
    """What the model is asked and judged by."""
    sets, encoder = _data(trainer)
    prompts = [[name, encoder.prompt(records[0])] for name, records in sets.items() if records]
    asked = [[name, *astuple(options)] for name, options in _set_options(trainer).items()]
    texts = ([name, *astuple(replace(record, source=""))] for name, records in sets.items() for record in records)
    return [prompts, asked, *texts]


def _data(trainer: Trainer) -> tuple[dict[str, list[Record]], Any]:
    data = getattr(trainer, "datamodule", None)
    if not hasattr(data, "evaluation_sets") or getattr(data, "encoder", None) is None:
        raise ValueError(
            "Evaluate needs a data module with evaluation_sets() and, after setup, an encoder; "
            f"got {type(data).__name__ if data is not None else 'no data module'}"
        )
    return data.evaluation_sets(), data.encoder


def _set_options(trainer: Trainer) -> dict[str, SetOptions]:
    return getattr(trainer.datamodule, "set_options", dict)()


def _part(log: Log, sets: Mapping[str, Sequence[Record]], max_rows: int | None) -> Log:
    """Return the samples of a log that an evaluation of fewer rows would have had."""
    chosen = {name: set(select_rows(len(sets[name]), max_rows)) for name in log}
    return {name: [sample for sample in rows if sample["index"] in chosen[name]] for name, rows in log.items()}


def _name(judge: Any) -> str:
    return getattr(judge, "__qualname__", type(judge).__qualname__) if callable(judge) else str(judge)


def _digest(about: Any) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
