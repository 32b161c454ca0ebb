"""Two processes train the model that one process trains."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import multiprocessing

from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.models import Lora
from lightning_unlearn.objectives.idk_nll import IdkNLL
from lightning_unlearn.objectives.npo import NPO
from tests.dense import make_rows, tiny

RUNS = {
    "full": (NPO, {"retain": "kl"}),
    "lora": (NPO, {"retain": "kl", "lora": Lora(dropout=0.0)}),
    "cached": (NPO, {"retain": "kl", "reference": "cache"}),  # each computes rows that the other reads later
    "idk": (IdkNLL, {}),  # reads refusals alone: a rank may have none of them
}


class Rows(L.LightningDataModule):
    """9 forget rows: on two ranks the last micro-batches hold one row each, or none."""

    def train_dataloader(self) -> UnlearningLoader:
        forget = make_rows([1, 9, 2, 6, 1, 1, 8, 3, 12], seed=5)
        rows = {
            "forget": forget,
            "retain": make_rows([7, 1, 1, 10, 2, 3], seed=6),
            "forget_idk": [make_rows([2, 5], seed=10 + i) for i in range(len(forget))],
        }
        share = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        return UnlearningLoader(
            rows,
            batch_size=4 // share["num_replicas"],
            retain_per_forget=1.5,
            rank=share["rank"],
            world_size=share["num_replicas"],
            accumulate=lambda: self.trainer.accumulate_grad_batches,
        )


def train(kind: str, out: Path, **options) -> dict[str, torch.Tensor]:
    cls, arguments = RUNS[kind]
    torch.manual_seed(0)
    objective = cls(tiny(), lr=1e-2, optimizer=lambda p: torch.optim.SGD(p, lr=0.05), **arguments)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        accumulate_grad_batches=2,
        default_root_dir=out.with_suffix(""),
        **options,
    )
    trainer.fit(objective, Rows())
    if trainer.is_global_zero:
        torch.save(objective.state_dict(), out)
    return objective.state_dict()


def process(rank: int, port: int, folder: Path) -> None:
    """One of two processes, started as torchrun would have."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
    )
    os.environ.pop("PL_GLOBAL_SEED", None)  # an earlier test may have set it, and DDP seeds with it again
    torch.set_num_threads(1)
    for kind in RUNS:
        train(kind, folder / f"{kind}.pt", devices=2, strategy="ddp")
        torch.distributed.barrier()  # neither goes on, or away, while the other still talks
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(process, (port, tmp_path), nprocs=2)
    parts = [path.stat().st_size for path in tmp_path.glob("cached/reference_cache/*/*.values")]
    assert len(parts) == 2
    assert min(parts) > 0.25 * sum(parts)  # each computed its share
    for kind in RUNS:
        alone = train(kind, tmp_path / "alone.pt", devices=1)
        shared = torch.load(tmp_path / f"{kind}.pt", weights_only=True)
        assert shared.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                shared[name], value, rtol=1e-8, atol=1e-9, msg=lambda m, n=f"{kind} {name}": f"{n}: {m}"
            )
