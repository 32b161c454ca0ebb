"""What a loader must know of a Trainer, and what a Trainer does to loaders that are not ours.

Lightning gives its own sampler to every torch DataLoader where several processes train; it leaves ours alone, which
therefore has to be told how many processes there are, how much is accumulated, and when training ends.
"""

from __future__ import annotations

import warnings
from math import ceil, inf
from typing import Any

from torch.utils.data import DataLoader

from lightning_unlearn.data.sampling import UnlearningLoader


def trainer_options(trainer: Any) -> dict[str, Any]:
    """Return the options of `UnlearningLoader` that follow from a Trainer.

    To be called where its processes exist: in `train_dataloader` of a LightningModule or data module; or before `fit`
    where one process trains, or each was started by torchrun or by Lightning's own launcher.

    Args:
        trainer: the Trainer, or None for a single process without one.
    """
    if trainer is None:
        return {}
    return {
        **ranks(trainer),
        "accumulate": lambda: trainer.accumulate_grad_batches,
        "limit": lambda: trainer.num_training_batches,
        "epochs": lambda batches: epochs_to_run(trainer, batches),
    }


def ranks(trainer: Any) -> dict[str, Any]:
    """Return `rank` and `world_size` of the processes that share the data: those of one replica hold the same rows."""
    sampler = (trainer.distributed_sampler_kwargs if trainer is not None else None) or {}
    return {"rank": sampler.get("rank", 0), "world_size": sampler.get("num_replicas", 1)}


def epochs_to_run(trainer: Any, batches: int) -> float:
    """Return how many epochs the Trainer runs if each has so many micro-batches."""
    limit = trainer.limit_train_batches  # a number of micro-batches, or a share of them
    run = min(batches, limit) if isinstance(limit, int) else max(int(batches * limit), 1)
    by_epochs = inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    by_steps = inf if trainer.max_steps == -1 else ceil(trainer.max_steps / ceil(run / trainer.accumulate_grad_batches))
    return min(by_epochs, by_steps)


def check_train_loaders(trainer: Any) -> None:
    """Check our loaders against the Trainer, warn of another accumulation, and name what it does to others.

    Raises:
        ValueError: if one of our loaders was made for another number of processes.
    """
    world = ranks(trainer)["world_size"]
    for loader in trainer.fit_loop._combined_loader.flattened:
        if isinstance(loader, UnlearningLoader):
            _check_ours(loader, ranks(trainer), trainer.accumulate_grad_batches)
        elif isinstance(loader, DataLoader) and world > 1 and _is_reshuffled(loader, trainer):
            warnings.warn(
                f"on {world} processes Lightning draws your DataLoader's rows with a shuffling DistributedSampler, "
                "whatever its sampler was, and repeats rows so that all have as many; set "
                "Trainer(use_distributed_sampler=False) to keep your sampler, or use UnlearningLoader",
                stacklevel=2,
            )


def _check_ours(loader: UnlearningLoader, share: dict[str, int], accumulated: int) -> None:
    for name, value in share.items():
        if getattr(loader, name) != value:
            raise ValueError(
                f"{name} of UnlearningLoader must be the Trainer's, {value}, got {getattr(loader, name)}; make the "
                "loader in train_dataloader with **trainer_options(self.trainer)"
            )
    if loader.accumulate() != accumulated:
        warnings.warn(
            f"accumulate of UnlearningLoader returns {loader.accumulate()} and accumulate_grad_batches is "
            f"{accumulated}: a step will not be the mean over its rows; make the loader with "
            "**trainer_options(trainer)",
            stacklevel=3,
        )


def _is_reshuffled(loader: DataLoader, trainer: Any) -> bool:
    allowed = getattr(trainer._accelerator_connector, "use_distributed_sampler", True)
    return allowed and getattr(loader.sampler, "shuffle", False) is True
