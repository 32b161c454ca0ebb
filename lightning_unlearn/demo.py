"""`lightning-unlearn demo`: the whole job on a small model, in minutes on a CPU, with nothing to download.

A small Llama learns fictitious authors (or real TOFU rows), forgets some of them with ME+GD and with IDK+AP, and is
compared with a model retrained without them. The demo fails, with exit code 1, if a method does not forget or does not
keep the rest.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn.callbacks.evaluation import Evaluate
from lightning_unlearn.callbacks.run_folder import RunFolder
from lightning_unlearn.callbacks.throughput import Throughput
from lightning_unlearn.data.authors.people import TOPICS
from lightning_unlearn.data.bpe import train_tokenizer
from lightning_unlearn.data.fictitious import FictitiousAuthors
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.data.tofu import TOFU
from lightning_unlearn.evaluation.run import evaluate
from lightning_unlearn.function_cli import read_options
from lightning_unlearn.models import load_causal_lm, save_model
from lightning_unlearn.objectives.answer_preservation import AnswerPreservation
from lightning_unlearn.objectives.base import Objective
from lightning_unlearn.objectives.fine_tune import FineTune
from lightning_unlearn.objectives.maximize_entropy import MaximizeEntropy
from lightning_unlearn.report import write_comparison

KNOWN, FORGOTTEN = 0.9, 0.35  # ROUGE-L recall on forget: above the first before, below the second after
VOCABULARY = 4096
EVALUATION: dict[str, Any] = {"sentence_encoder": "lexical", "entailment": "lexical", "max_new_tokens": 64}


@dataclass(frozen=True)
class Method:
    """One way to forget: how to make its objective, and how much of the retain set's scores must stay."""

    title: str
    objective: Callable[..., Objective]
    options: dict[str, Any]
    epochs: int
    keeps: float


METHODS = {
    "me_gd": Method("ME+GD", MaximizeEntropy, {"lr": 1e-3}, epochs=10, keeps=0.9),
    "idk_ap": Method("IDK+AP", AnswerPreservation, {"lr": 5e-4, "retain_weight": 2.0}, epochs=10, keeps=0.85),
}


def demo(
    *,
    output: Path = Path("runs/demo"),
    data: str = "fictitious",
    forget_rows: int = 40,
    retain_rows: int = 160,
    epochs: int = 40,
    seed: int = 0,
    redact: bool = False,
    overwrite: bool = False,
) -> int:
    """Train, unlearn, retrain, evaluate and report; finished parts of an earlier, stopped demo are used again.

    Args:
        output: folder of the demo; each model gets a folder in it.
        data: "fictitious" (built in), a folder with TOFU's files, or "locuslab/TOFU".
        forget_rows: rows to forget, 20 an author.
        retain_rows: rows to keep, 20 an author.
        epochs: passes over the rows when the starting and the retrained model learn them.
        seed: seed of the rows, the weights and the orders.
        redact: mask every text in samples and reports.
        overwrite: start over.

    Returns:
        0 if every method forgot and kept what it must, else 1.
    """
    started, console = time.perf_counter(), Console()
    _quiet()
    L.seed_everything(seed, verbose=False)
    settings = {"data": data, "forget_rows": forget_rows, "retain_rows": retain_rows, "epochs": epochs, "seed": seed}
    _open_folder(output, settings, overwrite)
    source = tokenised_data(data, output, forget_rows=forget_rows, retain_rows=retain_rows, seed=seed)
    console.rule("[bold]1/4  a model learns everything")
    learn(source.training_records(), source, output / "start", epochs)
    console.rule("[bold]2/4  another learns all but what is to be forgotten")
    learn(source.retrain_records(), source, output / "retrained", epochs)
    log = output / "retrained/samples.jsonl"
    if not all((output / name / "report.html").exists() for name in METHODS):
        retrained = load_causal_lm(output / "retrained/model").eval()
        asked = {"set_options": source.set_options(), **EVALUATION}
        evaluate(retrained, source.encoder, source.evaluation_sets(), output=log, **asked)
    for number, (name, method) in enumerate(METHODS.items(), 3):
        console.rule(f"[bold]{number}/4  {method.title} makes the first forget")
        _unlearn(method, source, output / name, start=output / "start/model", retrained=log, redact=redact)
    log.unlink(missing_ok=True)  # every run folder has it now, masked where asked for, and `purge` finds it there
    report = write_comparison([output / name for name in METHODS], output / "report.html")
    metrics = {name: json.loads((output / name / "metrics.json").read_text()) for name in METHODS}
    console.print(_table(metrics))
    for name in METHODS:
        console.print(f"report of {METHODS[name].title}: {(output / name / 'report.html').resolve()}", soft_wrap=True)
    console.print(f"[bold]comparison: {report.resolve()}", soft_wrap=True)
    console.print(f"{time.perf_counter() - started:.0f} s")
    failures = [failure for name, method in METHODS.items() for failure in shortcomings(method, metrics[name])]
    for failure in failures:
        print(f"demo failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def shortcomings(method: Method, metrics: dict[str, Any]) -> list[str]:
    """Say what a method did not do: forget what was known, or keep its share of the retain set's scores.

    Args:
        method: the method.
        metrics: content of its `metrics.json`.
    """
    before, after = metrics["before"], metrics["after"]
    forget, retain, probability = "forget/rougeL_recall", "retain/rougeL_recall", "retain/probability"
    found = []
    if not before[forget] > KNOWN:
        found.append(f"the starting model's {forget} must be above {KNOWN}, got {before[forget]:.3f}")
    if not after[forget] < FORGOTTEN:
        found.append(f"{method.title}: {forget} must be below {FORGOTTEN}, got {after[forget]:.3f}")
    for key in (retain, probability):
        if not after[key] > method.keeps * before[key]:
            least = method.keeps * before[key]
            found.append(
                f"{method.title}: {key} must stay above {least:.3f} (of {before[key]:.3f}), got {after[key]:.3f}"
            )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo from command line words."""
    return demo(**read_options(demo, argv))


def tokenised_data(data: str, output: Path, *, forget_rows: int, retain_rows: int, seed: int) -> UnlearningDataModule:
    """Make the data module, and the tokenizer from its rows.

    Args:
        data: see `demo`.
        output: the tokenizer's folder lies there.
        forget_rows: see `demo`.
        retain_rows: see `demo`.
        seed: see `demo`.
    """
    folder = output / "tokenizer"
    options: dict[str, Any] = {"tokenizer": folder, "batch_size": 4, "seed": seed, "max_length": 256}
    limits: dict[str, Any] = {"max_forget_rows": forget_rows, "max_retain_rows": retain_rows}
    if data == "fictitious":
        gone, kept = ceil(forget_rows / len(TOPICS)), ceil(retain_rows / len(TOPICS))
        source = FictitiousAuthors(
            authors=gone + kept, forget_authors=gone, holdout_authors=gone, world=seed, **limits, **options
        )
    else:
        unseen: dict[str, Any] = {"holdout": "left_out", "max_holdout_rows": forget_rows}
        source = TOFU(forget="forget10", data=data, **unseen, **limits, **options)
    if not (folder / "tokenizer.json").exists():
        texts = [f"{record.question}\n{record.answer}" for record in source.training_records()]
        train_tokenizer([*texts, *source.refusals()], vocab_size=VOCABULARY).save_pretrained(folder)
    source.setup()
    return source


def learn(records: list[Record], source: UnlearningDataModule, folder: Path, epochs: int) -> None:
    """Train a small model from scratch on the records, and save it; a model that is there already is kept.

    Args:
        records: what it learns.
        source: with the tokenizer.
        folder: gets the folder "model".
        epochs: passes over the records.
    """
    if (folder / "model/config.json").exists():
        return
    torch.manual_seed(source.seed)
    objective = FineTune(small_llama(len(source.tokenizer)), lr=2e-3, weight_decay=0.0)
    loader = UnlearningLoader({"forget": source.encoder.rows(records)}, batch_size=16, seed=source.seed)
    trainer = L.Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        accelerator="cpu",
    )
    trainer.fit(objective, loader)
    partial = folder / "partial"
    save_model(objective.model, source.tokenizer, partial)
    partial.rename(folder / "model")


def _unlearn(
    method: Method, source: UnlearningDataModule, folder: Path, *, start: Path, retrained: Path, redact: bool
) -> None:
    """Make the starting model forget, in a run folder of its own; a run that has its report is kept."""
    if (folder / "report.html").exists():
        return
    last = folder / "checkpoints/last.ckpt"
    trainer = L.Trainer(
        default_root_dir=folder,
        max_epochs=method.epochs,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
        check_val_every_n_epoch=2,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,
        accelerator="cpu",
        logger=CSVLogger(folder, name="logs"),
        callbacks=[
            Throughput(),
            Evaluate(retrained=retrained, redact=redact, max_rows=None, **EVALUATION),
            ModelCheckpoint(folder / "checkpoints", save_last=True),
            RunFolder(redact=redact),
        ],
    )
    torch.manual_seed(source.seed)
    objective = method.objective(start, weight_decay=0.0, **method.options)
    trainer.fit(objective, datamodule=source, ckpt_path=last if last.exists() else None)


def small_llama(vocabulary: int) -> nn.Module:
    """Return a random Llama of two layers and a width of 128, which a CPU trains in seconds."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


def _open_folder(output: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the folder, or go on in one that was begun with the same settings."""
    stamp = output / "demo.json"
    if overwrite and stamp.exists():
        shutil.rmtree(output)
    if stamp.exists() and json.loads(stamp.read_text()) != settings:
        raise ValueError(f"output must be a new folder or a demo with these settings, got {output}; set overwrite")
    if not stamp.exists() and output.exists() and any(output.iterdir()):
        raise ValueError(f"output must be a new folder or an earlier demo, got {output}, which holds other files")
    output.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps(settings, indent=2) + "\n")


def _table(metrics: dict[str, dict[str, Any]]) -> Table:
    """Lay the numbers out: the starting and the retrained model, and every method."""
    first = next(iter(metrics.values()))
    rows = {
        "forget/rougeL_recall": "forget ROUGE-L",
        "forget/probability": "forget probability",
        "retain/rougeL_recall": "retain ROUGE-L",
        "retain/probability": "retain probability",
        "closer_look/forget_efficacy": "forget efficacy",
        "closer_look/model_utility": "model utility",
        "model_utility": "model utility (TOFU)",
        "forget_quality": "forget quality (p)",
        "unlearning_score/memorization": "score: memorisation",
        "unlearning_score/privacy": "score: privacy",
        "unlearning_score/utility": "score: utility",
    }
    models = {"start": first["before"], "retrained": first["retrained"]}
    models |= {METHODS[name].title: content["after"] for name, content in metrics.items()}
    table = Table("", *models, caption="cosine similarity and entailment: lexical substitutes")
    for key, label in rows.items():
        table.add_row(label, *(f"{scores[key]:.3g}" if key in scores else "" for scores in models.values()))
    return table


def _quiet() -> None:
    """Leave progress bars and results on the screen, and little else."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for pattern in (".isinstance\\(treespec, LeafSpec\\)", ".*does not have many workers", "You defined a `validation"):
        warnings.filterwarnings("ignore", pattern)
