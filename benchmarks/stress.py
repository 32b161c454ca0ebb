"""Stress tests of models that forgot, of one whose answers were merely suppressed, and of one that never knew.

Usage: python -m benchmarks.stress [--output DIR] [--forget_rows N] [--retain_rows N] [--epochs N]

The models are those of the demo, in DIR (default: runs/demo). To them come "suppressed", which LoRA on the starting
model teaches to refuse, and "never_knew", trained without the rows from another seed than the retrained model that all
are compared with. The report of each run shows its stress tests.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import warnings
from pathlib import Path

import lightning as L
import torch

from lightning_unlearn import attacks as attack_package
from lightning_unlearn.attacks.base import Attack
from lightning_unlearn.attacks.results import Results
from lightning_unlearn.callbacks.evaluation import Evaluate
from lightning_unlearn.callbacks.run_folder import RunFolder
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.demo import EVALUATION, METHODS, demo, learn, tokenised_data
from lightning_unlearn.function_cli import read_options
from lightning_unlearn.models import Lora
from lightning_unlearn.objectives.idk_nll import IdkNLL
from lightning_unlearn.report import write_report
from lightning_unlearn.report.runs import STRESS
from lightning_unlearn.stress import stress

CONFIG = Path(__file__).resolve().parent.parent / "configs/stress/demo.yaml"
SUPPRESSED, NEVER_KNEW = "suppressed", "never_knew"


def suppress(source: UnlearningDataModule, folder: Path, start: Path) -> None:
    """Teach the starting model to refuse, by adapters: what it knew is still in the weights below them."""
    if (folder / "report.html").exists():
        return
    torch.manual_seed(source.seed)
    trainer = L.Trainer(
        default_root_dir=folder,
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Evaluate(max_rows=None, training_max_rows=0, **EVALUATION), RunFolder()],
    )
    objective = IdkNLL(start, lora=Lora(), lr=2e-3, retain="nll", weight_decay=0.0)
    trainer.fit(objective, datamodule=source)


def attacked(folder: Path, models: Path, source: UnlearningDataModule, attacks: list[Attack]) -> list[Results]:
    """Make all attacks on a model of the folder of models, and write its report."""
    is_run = (folder / "run_card.json").exists()
    found = stress(
        folder if is_run else folder / "model",
        attacks=attacks,
        data=source,
        start=str(models / "start/model"),
        retrained=str(models / "retrained/model"),
        output=folder,
        max_rows=None,
        max_new_tokens=EVALUATION["max_new_tokens"],
    )
    if is_run:
        write_report(folder)
    return found


def table(found: dict[str, list[Results]]) -> str:
    """A line for each attack, a column for each model: the share that comes back, in bold where it is exposed."""
    lines = [["attack", *found], ["---"] * (1 + len(found))]
    for at, results in enumerate(next(iter(found.values()))):
        lines.append([results.attack.name, *(_cell(of_model[at]) for of_model in found.values())])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(results: Results) -> str:
    recovered = results.recovered()
    if recovered is None:
        return "–"
    share = f"{recovered['share']:.2f}"
    return f"**{share}**" if recovered["verdict"] == "exposed" else share


def main(argv: list[str] | None = None) -> None:
    """Make the models and the attacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    parser.add_argument("--forget_rows", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--retain_rows", type=int, default=160, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=40, help="of learning (default: %(default)s)")
    options = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    rows = {"forget_rows": options.forget_rows, "retain_rows": options.retain_rows}
    demo(output=options.output, epochs=options.epochs, **rows)
    source = tokenised_data("fictitious", options.output, seed=0, **rows)
    suppress(source, options.output / SUPPRESSED, options.output / "start/model")
    source.seed = 1
    learn(source.retrain_records(), source, options.output / NEVER_KNEW, options.epochs)
    attacks = read_options(stress, ["run", "--config", str(CONFIG)], classes={attack_package: Attack})["attacks"]
    first, *others = names = [SUPPRESSED, *METHODS, NEVER_KNEW]
    found = {}
    for name in names:
        if name in others and not (options.output / name / STRESS).exists():
            # what the starting and the retrained model show is measured once
            shutil.copytree(options.output / first / STRESS, options.output / name / STRESS)
        found[name] = attacked(options.output / name, options.output, source, attacks)
    print(table(found))


if __name__ == "__main__":
    main()
