"""General ability before and after a run, by the tasks of lm_eval: what unlearning must not cost.

Tasks of what must go, as WMDP's, are answered in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_unlearn.callbacks.fit_begin import FitBegin
from lightning_unlearn.callbacks.run_files import RunFiles
from lightning_unlearn.forward import evaluating
from lightning_unlearn.json_lines import write_lines
from lightning_unlearn.parts import is_sharded
from lightning_unlearn.processes import gather, rank, world_size
from lightning_unlearn.report.runs import GENERAL


class GeneralAbility(FitBegin):
    """Evaluates the starting and the trained model on tasks of EleutherAI's lm_eval, and in `test` the model as it is.

    The results are in the part "general_ability" of `metrics.json`; the report shows those before and after. Several
    processes share the rows of each task, where each holds the whole model.

    Args:
        tasks: names of tasks, as `lm_eval ls tasks` lists them, or those in `include_path`.
        num_fewshot: examples in a prompt (default: each task's).
        limit: most rows a task; None for all.
        batch_size: rows in a batch.
        include_path: folder with task files of one's own.
        apply_chat_template: ask as the tokenizer's chat template has it.
        keep_samples: write what was asked and said, row by row, into `samples_lm_eval_<stage>.jsonl`.

    Raises:
        ValueError: without tasks, or where lm_eval is not installed.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[str],
        num_fewshot: int | None = None,
        limit: int | None = None,
        batch_size: int = 8,
        include_path: str | Path | None = None,
        apply_chat_template: bool = False,
        keep_samples: bool = False,
    ) -> None:
        if not tasks:
            raise ValueError("tasks must name one at least, got none")
        try:
            import lm_eval  # noqa: F401
        except ImportError:
            raise ValueError('tasks need lm_eval: pip install "lightning-unlearn[eval]"') from None
        self.tasks = list(tasks)
        self.include_path = include_path
        self.batch_size = batch_size
        self.keep_samples = keep_samples
        self.options = {"num_fewshot": num_fewshot, "limit": limit, "apply_chat_template": apply_chat_template}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Go last, so that the run folder has been checked and cleared; and find the tasks before anything is trained.

        Raises:
            ValueError: for a task that is not there, or a data module without tokenizer.
        """
        if stage not in ("fit", "test"):
            return
        trainer.callbacks = [*(callback for callback in trainer.callbacks if callback is not self), self]
        if not hasattr(getattr(trainer, "datamodule", None), "tokenizer"):
            raise ValueError("GeneralAbility needs a data module with a tokenizer, got none")
        unknown = sorted(set(self.tasks) - set(self._manager.all_tasks))
        if unknown:
            raise ValueError(f"tasks must be tasks of lm_eval or in include_path, got {', '.join(unknown)}")

    def on_fit_begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the starting model, unless the fit continues one that did.

        Raises:
            ValueError: for a sharded model.
        """
        _check_whole(pl_module.model)
        if trainer.ckpt_path is None:
            self._evaluate(trainer, pl_module, "before")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the trained model, while it is still on its device."""
        self._evaluate(trainer, pl_module, "after")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the model as it is: a live one, or an exported one that was loaded.

        Raises:
            ValueError: for a sharded model.
        """
        _check_whole(pl_module.model)
        self._evaluate(trainer, pl_module, "test")

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.fast_dev_run:
            return
        files = RunFiles(trainer)
        known = files.metrics().get(GENERAL) or {}
        found = self._found(pl_module.model, trainer.datamodule.tokenizer)
        files.update(**{GENERAL: {**known, stage: numbers(found["results"])}})
        if self.keep_samples and trainer.is_global_zero:
            rows = ({"task": task, **row} for task, rows in found["samples"].items() for row in rows)
            write_lines(rows, files.folder / f"samples_lm_eval_{stage}.jsonl")
        trainer.strategy.barrier()

    def scores(self, model: nn.Module, tokenizer: Any) -> dict[str, float]:
        """Compute "<task>/<metric>" of each task, without the standard errors; in a group every process must call it.

        Args:
            model: a transformers causal LM or a PEFT model around one, whole on each process.
            tokenizer: its tokenizer.

        Returns:
            The scores on the first process; an empty dict on the others.
        """
        return numbers(self._found(model, tokenizer)["results"])

    def _found(self, model: nn.Module, tokenizer: Any) -> dict[str, Any]:
        """What lm_eval returns; on all processes but the first, nothing."""
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        with evaluating(model), isolate_rng():
            served = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size)
            served._rank, served._world_size, served.accelerator = rank(), world_size(), _Group()
            options = {"task_manager": self._manager, "log_samples": self.keep_samples, "bootstrap_iters": 0}
            found = lm_eval.simple_evaluate(served, tasks=self.tasks, **self.options, **options)
        return found or {"results": {}, "samples": {}}

    @cached_property
    def _manager(self) -> Any:
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=None if self.include_path is None else str(self.include_path))


class _Group:
    """The process group that is there, as lm_eval asks for it: it knows groups of its own launcher alone."""

    def gather(self, tensor: Tensor) -> Tensor:
        return torch.cat([one.reshape(-1) for one in gather(tensor.cpu())])

    def wait_for_everyone(self) -> None:
        gather(None)

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        return model


def _check_whole(model: nn.Module) -> None:
    if is_sharded(model):
        raise ValueError("GeneralAbility needs a whole model, got a sharded one: export it and run `test` on that")


def numbers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return "<task>/<metric>" -> value of lm_eval's results; of a filter other than "none" with its name.

    >>> numbers({"arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1}, "qa": {"em,strict": 1.0}})
    {'arc/acc': 0.5, 'qa/em (strict)': 1.0}
    """
    found = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, _, kind = key.partition(",")
            if isinstance(value, float | int) and not metric.endswith("_stderr") and metric != "sample_len":
                found[f"{task}/{metric}" + (f" ({kind})" if kind not in ("", "none") else "")] = float(value)
    return found
