from __future__ import annotations

import warnings
from math import inf
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
from torch.utils.data import DataLoader, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.data.share import check_train_loaders, epochs_to_run, trainer_options

ROWS = {"forget": [TokenRow(np.array([i]), np.array([0]), np.array([1])) for i in range(10)]}


def trainer(*, rank=0, world=1, accumulate=1, loaders=(), inject=True, **options):
    """What is read of a Trainer, with `world` processes that a test need not start."""
    return SimpleNamespace(
        **{"max_epochs": 3, "max_steps": -1, "limit_train_batches": 1.0, **options},
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world} if world > 1 else None,
        accumulate_grad_batches=accumulate,
        num_training_batches=inf,
        fit_loop=SimpleNamespace(_combined_loader=SimpleNamespace(flattened=list(loaders))),
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=inject),
    )


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"max_epochs": 3}, 3),
        ({"max_epochs": -1}, inf),
        ({"max_epochs": None}, inf),
        ({"max_epochs": -1, "max_steps": 11}, 3),  # 10 micro-batches, 2 a step: 5 steps an epoch
        ({"max_epochs": 2, "max_steps": 11}, 2),
        ({"max_epochs": 5, "max_steps": 11}, 3),
        ({"max_epochs": -1, "max_steps": 11, "limit_train_batches": 3}, 6),  # 2 steps an epoch, the second of one
        ({"max_epochs": -1, "max_steps": 11, "limit_train_batches": 0.4}, 6),
        ({"max_epochs": -1, "max_steps": 11, "limit_train_batches": 99}, 3),
    ],
)
def test_epochs_that_a_trainer_runs(options, epochs):
    assert epochs_to_run(trainer(accumulate=2, **options), 10) == epochs


def test_a_real_trainer_is_read():
    real = L.Trainer(
        accelerator="cpu", max_steps=11, accumulate_grad_batches=2, logger=False, enable_checkpointing=False
    )
    options = trainer_options(real)
    loader = UnlearningLoader(ROWS, tokens_per_batch=3, **options)
    assert (loader.rank, loader.world_size, loader.accumulate(), loader.limit()) == (0, 1, 2, inf)
    assert options["epochs"](10) == 3
    assert len(loader) == 4
    assert trainer_options(None) == {}


def test_the_ranks_of_a_trainer():
    loader = UnlearningLoader(ROWS, **trainer_options(trainer(rank=1, world=2, accumulate=4)))
    assert (loader.rank, loader.world_size, loader.accumulate(), len(loader)) == (1, 2, 4, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": 2, "rank": 1}, "rank of UnlearningLoader must be the Trainer's, 1, got 0"),
        ({"world": 2}, "world_size of UnlearningLoader must be the Trainer's, 2, got 1"),
    ],
)
def test_a_loader_made_for_another_trainer(options, message):
    """Ranks would train on the same rows."""
    with pytest.raises(ValueError, match=message):
        check_train_loaders(trainer(loaders=[UnlearningLoader(ROWS)], **options))
    loader = UnlearningLoader(ROWS, **trainer_options(trainer(**options)))
    check_train_loaders(trainer(loaders=[loader], **options))


def test_a_loader_made_for_another_accumulation():
    """A step would be a mean of means over micro-batches."""
    with pytest.warns(
        UserWarning, match=r"returns 1 and accumulate_grad_batches is 2: .*\*\*trainer_options\(trainer\)"
    ):
        check_train_loaders(trainer(loaders=[UnlearningLoader(ROWS)], accumulate=2))


def test_a_loader_that_lightning_shuffles_is_named():
    data = list(range(10))
    shuffled = DataLoader(data, sampler=DistributedSampler(data, num_replicas=2, rank=0, shuffle=True))
    with pytest.warns(UserWarning, match=r"on 2 processes .* set Trainer\(use_distributed_sampler=False\)"):
        check_train_loaders(trainer(world=2, loaders=[shuffled]))
    in_order = DataLoader(data, sampler=DistributedSampler(data, num_replicas=2, rank=0, shuffle=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_train_loaders(trainer(world=2, loaders=[shuffled], inject=False))
        check_train_loaders(trainer(world=2, loaders=[in_order, DataLoader(data, sampler=SequentialSampler(data))]))
        check_train_loaders(trainer(loaders=[shuffled]))
