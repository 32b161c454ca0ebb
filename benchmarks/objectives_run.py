"""One run of the benchmark of objectives, in a process of its own: forget, then measure."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
import transformers
from torch import nn

from benchmarks.objectives_cases import ObjectiveCase
from lightning_unlearn.callbacks.throughput import peak_memory_gb
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.demo import EVALUATION, learn, tokenised_data
from lightning_unlearn.evaluation import closer_look, privacy, tofu
from lightning_unlearn.evaluation.log import write_log
from lightning_unlearn.evaluation.run import evaluate
from lightning_unlearn.json_lines import write_lines
from lightning_unlearn.models import load_causal_lm


@dataclass(frozen=True)
class Setting:
    """What all runs of a benchmark share.

    Attributes:
        folder: holds the starting and the retrained model.
        forget_rows: rows to forget.
        retain_rows: rows to keep.
        learn_epochs: passes over the rows when models learn them.
        epochs: passes over the forget rows.
        max_rows: most evaluated rows a set.
        seed: of rows, weights and orders.
    """

    folder: Path
    forget_rows: int = 40
    retain_rows: int = 160
    learn_epochs: int = 40
    epochs: int = 10
    max_rows: int | None = None
    seed: int = 0

    def data(self) -> UnlearningDataModule:
        """The fictitious authors, in tokens; their wrong answers are alternates, as a model would make them up."""
        sizes = {"forget_rows": self.forget_rows, "retain_rows": self.retain_rows, "seed": self.seed}
        source = tokenised_data("fictitious", self.folder, **sizes)
        source.alternates = self.folder / "alternates.jsonl"
        if not source.alternates.exists():
            rows = [
                {"question": record.question, "answer": record.answer, "alternates": record.perturbed_answers}
                for record in source.evaluation_sets()["forget"]
            ]
            write_lines(rows, source.alternates)
        return source


@dataclass(frozen=True)
class ObjectiveResult:
    """What a run came to.

    Attributes:
        case: what was run.
        scores: by name, see `measure`; empty where the loss or a weight was no number.
        steps: optimiser steps.
        seconds: of all steps.
        peak_bytes: most memory during training beyond the loaded model.
    """

    case: ObjectiveCase
    scores: dict[str, float]
    steps: int = 0
    seconds: float = 0.0
    peak_bytes: float = 0.0


def anchors(setting: Setting) -> dict[str, dict[str, float]]:
    """Train the starting model and the one that never saw the forget rows, where they are missing, and measure both."""
    quiet()
    source = setting.data()
    rows = {"retrained": source.retrain_records(), "start": source.training_records()}
    for name, records in rows.items():
        learn(records, source, setting.folder / name, setting.learn_epochs)
    found = {name: measure(load_causal_lm(setting.folder / name / "model"), source, setting) for name in rows}
    return {"start": found["start"], "retrained": found["retrained"]}


def run(case: ObjectiveCase, setting: Setting) -> ObjectiveResult:
    """Make the starting model forget, and measure it."""
    quiet()
    torch.manual_seed(setting.seed)
    source, objective = setting.data(), case.make()(setting.folder / "start/model")
    objective.configure_model()
    before = _resident()
    trainer = L.Trainer(
        max_epochs=setting.epochs,
        gradient_clip_val=1.0,
        default_root_dir=setting.folder / "runs" / case.slug,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        accelerator="cpu",
    )
    started = time.perf_counter()
    trainer.fit(objective, datamodule=source)
    seconds, peak = time.perf_counter() - started, _resident() - before
    finite = all(torch.isfinite(parameter).all() for parameter in objective.model.parameters())
    scores = measure(objective.model, source, setting) if finite else {}
    return ObjectiveResult(case, scores, trainer.global_step, seconds, peak)


def measure(model: nn.Module, source: UnlearningDataModule, setting: Setting) -> dict[str, float]:
    """Compute the scores of TOFU and "A Closer Look", and "mia_loss_auc".

    That is the AUC of the LOSS attack between forget rows and rows about authors whom no model has met: 1 where those
    are remembered, 0.5 where they might never have been seen. What is measured first is the retrained model, with which
    TOFU's forget quality compares all others.
    """
    kept, options = setting.folder / "retrained/samples.jsonl", {"set_options": source.set_options(), **EVALUATION}
    sets = source.evaluation_sets()
    log = evaluate(model, source.encoder, sets, max_rows=setting.max_rows, progress=False, **options)
    if not kept.exists():
        write_log(log, kept)
    scores = tofu.scores(log, tofu.read_log(kept)) | closer_look.scores(log)
    return {**scores, "mia_loss_auc": privacy.attack_aucs(log)["loss"]}


def _resident() -> float:
    """The most memory that this process has had so far, bytes; 0 where the system does not tell."""
    return 1e9 * (peak_memory_gb(torch.device("cpu")) or 0.0)


def quiet() -> None:
    """One thread, and no more on the screen than a run's line."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
