"""`fit`, `validate` and `test`: a LightningCLI whose options come from the signatures of our classes.

A run is one folder, `--trainer.default_root_dir`: checkpoints, logs, metrics, samples, model and report go there. Its
default has no date in it, so that the same command with `--ckpt_path last` continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter, Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lightning_unlearn import attacks, callbacks, data, objectives, updates
from lightning_unlearn.attacks.base import Attack
from lightning_unlearn.callbacks.evaluation import Evaluate
from lightning_unlearn.callbacks.preemption import SaveOnSigterm
from lightning_unlearn.callbacks.run_folder import RunFolder
from lightning_unlearn.callbacks.throughput import Throughput
from lightning_unlearn.classes import import_from_working_folder, import_modules, words_of
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.objectives.base import Objective
from lightning_unlearn.report.runs import REPORT
from lightning_unlearn.strategy import recover
from lightning_unlearn.updates.base import UpdateRule
from lightning_unlearn.usage import OneLineErrors, UsageError, explain

TRAINER_DEFAULTS = {
    "max_epochs": 5,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # our loader knows its rank
}
LONGEST_LIST = 30  # names of classes in the help of one option
NOISE = (
    r".isinstance\(treespec, LeafSpec\). is deprecated",  # torch about Lightning
    r"You have overridden `on_before_batch_transfer`",  # the objective does so on purpose
    r"Checkpoint directory .* exists and is not empty",  # a resumed run's is; RunFolder refuses what would be lost
    r"`(is_)?gradient_checkpointing",  # transformers about peft, and about a name that its older versions need
)


def run(argv: Sequence[str] | None = None) -> None:
    """Parse the options and run the Trainer's method that the first word names.

    Args:
        argv: The words after the program's name; by default those of this process.

    Raises:
        UsageError: For an unknown option or a value of the wrong type.
    """
    import_from_working_folder()
    for noise in NOISE:
        warnings.filterwarnings("ignore", noise)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)
    UnlearnCLI(args=None if argv is None else list(argv))


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


class HelpFormatter(DefaultHelpFormatter):
    """Help without endless lists: of more classes than can be read PyTorch's optimisers are named, and no layers."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text: str = super()._get_help_string(action)
        start, known, names = text.partition(", known subclasses: ")
        if names.count(", ") < LONGEST_LIST:
            return text
        optimizers = [name for name in names.rstrip(")").split(", ") if name.startswith("torch.optim.")]
        return f"{start}{known}{', '.join(optimizers)})" if optimizers else f"{start})"


class UnlearnParser(OneLineErrors, LightningArgumentParser):
    """A parser whose mistakes are UsageErrors of one line."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, **options})

    def known_words(self) -> Iterator[str]:
        """Yield options, and our classes with their arguments."""
        yield from super().known_words()
        for base in (Objective, UnlearningDataModule, UpdateRule, Attack):
            yield from words_of(base)


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml, every option of the run, into the run folder when `fit` starts."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet: `RunFolder` may still refuse the folder."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file; a resumed run writes it again."""
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write every option into the run folder, but for what follows from the folder: another run has its own."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.config.clone()
        derived = checkpoint_folder(folder)
        for name in ("checkpoint", "last"):
            config[name].dirpath = None if config[name].dirpath == derived else config[name].dirpath
        if config.trainer.logger == csv_logger(folder):
            config.trainer.logger = None
        if _ranks_nothing(config.checkpoint):
            config.checkpoint.save_top_k = 1
        if "ckpt_path" in config:
            config.ckpt_path = None  # a repeated run starts from the start
        self.parser.save(config, str(folder / "config.yaml"), skip_unset=False, overwrite=True)


class UnlearnCLI(LightningCLI):
    """LightningCLI with an objective, a data module, and the callbacks that make a run folder.

    `--checkpoint.monitor METRIC` keeps the best checkpoint by any logged metric; `last.ckpt` is written beside it every
    epoch, or every `--last.every_n_train_steps`.
    """

    def __init__(self, args: list[str] | dict[str, Any] | Namespace | None = None, run: bool = True) -> None:
        for package in (objectives, data, updates, callbacks, attacks):
            import_modules(package)
        super().__init__(
            Objective,
            UnlearningDataModule,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=42,
            parser_kwargs={"prog": "lightning-unlearn"},
            parser_class=UnlearnParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=args,
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Name the Trainer's methods that are commands, with the arguments that are no options."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks of a run folder, each configurable under its own name, and `--redact`."""
        parser.add_argument("--redact", type=bool, default=False, help="mask the text of rows in all that is written")
        always = {
            "throughput": Throughput,
            "evaluate": Evaluate,
            "checkpoint": ModelCheckpoint,
            "last": ModelCheckpoint,
            "run_folder": RunFolder,
            "preemption": SaveOnSigterm,
        }
        for name, callback in always.items():
            parser.add_lightning_class_args(callback, name)
            if "redact" in inspect.signature(callback).parameters:
                parser.link_arguments("redact", f"{name}.redact")
        parser.set_defaults(
            {
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
                "last.filename": "last",
                "last.enable_version_counter": False,
                "last.save_on_train_epoch_end": True,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words, or the options as a dictionary."""
        self.config = parser.parse_object(args) if isinstance(args, (dict, Namespace)) else parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Leave the options as given: those inside a checkpoint do not overrule them."""

    def instantiate_classes(self) -> None:
        """Make the objects; an option that a class refuses is told in the class's own words."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UsageError(explain(str(error))) from error

    def before_instantiate_classes(self) -> None:
        """Fill in what depends on the run folder."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        config.trainer.default_root_dir = root = config.trainer.default_root_dir or default_run_folder(config)
        for name in ("checkpoint", "last"):
            config[name].dirpath = config[name].dirpath or checkpoint_folder(root)
        for checkpoint in recover(config.last.dirpath):
            print(f"put back {checkpoint}, which a run was replacing when it was killed", file=sys.stderr)
        if _ranks_nothing(config.checkpoint):
            config.checkpoint.save_top_k = 0  # nothing to rank by: last.ckpt is enough
        if "weights_only" in config and config.weights_only is None:
            config.weights_only = True  # Lightning would unpickle anything that comes from a URL
        if config.trainer.logger is None:
            config.trainer.logger = csv_logger(root)

    def after_fit(self) -> None:
        """Say where the evidence lies."""
        report = Path(self.trainer.default_root_dir) / REPORT
        if self.trainer.is_global_zero and report.is_file() and not self.trainer.fast_dev_run:
            print(f"report: {report.resolve()}")


def default_run_folder(config: Namespace) -> str:
    """Name the run folder after the objective, the data and its forget set: "runs/npo-tofu-forget05"."""
    words = [config.model.class_path.rsplit(".", 1)[-1], config.data.class_path.rsplit(".", 1)[-1]]
    forget = config.data.init_args.get("forget")
    if isinstance(forget, str):
        words.append(Path(forget).stem)
    return str(Path("runs") / "-".join(_snake(word) for word in words))


def checkpoint_folder(root: str | Path) -> str:
    """Name the folder of a run's checkpoints."""
    return str(Path(root) / "checkpoints")


def csv_logger(root: str | Path) -> Namespace:
    """Configure the logger that writes a run's curves."""
    init = Namespace(save_dir=str(root), name="logs")
    return Namespace(class_path="lightning.pytorch.loggers.CSVLogger", init_args=init)


def _ranks_nothing(config: Namespace) -> bool:
    schedules = ("every_n_train_steps", "every_n_epochs", "train_time_interval")
    return config.monitor is None and not any(config[name] for name in schedules)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^\w]+", "_", name).strip("_").lower()
