"""What must be true of every update rule, with whatever objective: a step is the same however it is cut or resumed."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import Strategy

from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.data.share import trainer_options
from lightning_unlearn.models import Lora
from lightning_unlearn.objectives.answer_preservation import AnswerPreservation
from lightning_unlearn.objectives.gradient_difference import GradientDifference
from lightning_unlearn.objectives.npo import NPO
from lightning_unlearn.objectives.pdu import PDU
from lightning_unlearn.objectives.rmu import RMU
from lightning_unlearn.parts import whole
from lightning_unlearn.strategy import ShardedStrategy
from tests.dense import make_rows, tiny
from tests.quiet import QUIET
from tests.ranks import spawn
from tests.updates.every import EVERY, optimizer_of

OBJECTIVES = {
    "difference": (GradientDifference, {}),
    "preference": (NPO, {"retain": "kl", "reference": "copy"}),
    "preservation": (AnswerPreservation, {}),
    "adapters": (NPO, {"retain": "kl", "lora": Lora(dropout=0.0)}),
    "steered": (RMU, {"layer": 0, "trainable": ["*.layers.0.*"]}),
    "dual": (PDU, {"eps": 0.5, "dual_warmup_epochs": 0}),
}
ON_TWO = {"preference": ("ddp", "fsdp2", "tp"), "adapters": ("ddp",)}
RESUMED = ("ddp", "fsdp2")
CASES = [
    pytest.param(rule, kind, marks=[pytest.mark.slow] * (kind == "adapters"))
    for rule, kind in product(EVERY, OBJECTIVES)
    if (rule, kind) != ("lat", "preservation")
]
FORGET, RETAIN = make_rows([1, 9, 2, 6, 1, 1, 8, 3, 12], seed=5), make_rows([7, 1, 1, 10, 2, 3], seed=6)
ROLES = {
    "forget": FORGET,
    "retain": RETAIN,
    "forget_idk": [make_rows([1 + i % 3], seed=10 + i) for i in range(len(FORGET))],
    "retain_idk": [make_rows([1 + i % 4], seed=30 + i) for i in range(len(RETAIN))],
}


class Rows(L.LightningDataModule):
    """9 forget rows, which no batch size divides; a step holds the same on any number of processes."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> UnlearningLoader:
        options = trainer_options(self.trainer)
        roles = self.trainer.lightning_module.roles
        rows = {role: ROLES[role] for role in ROLES if role in roles or role in ("forget", "retain")}
        return UnlearningLoader(
            rows, batch_size=self.batch_size // options["world_size"], retain_per_forget=1.5, seed=3, **options
        )


class Save(L.Callback):
    def __init__(self, path: Path, at: tuple[int, int]) -> None:
        self.path, self.at = path, at

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            trainer.save_checkpoint(self.path)


def train(
    rule: str, kind: str, *, batch_size: int, micro: int, ckpt_path: Path | None = None, seed: int = 0, **options
) -> dict[str, torch.Tensor]:
    """Weights, whole, after two epochs of clipped steps."""
    torch.manual_seed(seed)
    cls, arguments = OBJECTIVES[kind]
    objective = cls(
        tiny(),
        **arguments,
        update=EVERY[rule](),
        warmup_epochs=0,
        optimizer=optimizer_of(rule),
    )
    trainer = L.Trainer(
        **QUIET,
        use_distributed_sampler=False,
        max_epochs=2,
        accumulate_grad_batches=micro,
        gradient_clip_val=1.0,
        **options,
    )
    trainer.fit(objective, Rows(batch_size), ckpt_path=ckpt_path)
    return {name: whole(p.detach()).clone() for name, p in objective.named_parameters() if p.requires_grad}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("rule", "kind"), CASES)
def test_micro_batches_add_up_to_one_big_batch(rule, kind):
    """Windows of 2 and 2 micro-batches of 3 rows, the last of one window alone; or steps of 6 and 3 rows."""
    whole_batches = train(rule, kind, batch_size=6, micro=1)
    assert_same(train(rule, kind, batch_size=3, micro=2), whole_batches)
    if kind != "adapters":
        start = tiny().state_dict()
        moved = [(value - start[name.removeprefix("model.")]).abs().max() for name, value in whole_batches.items()]
        assert max(moved) > 1e-3


@pytest.mark.parametrize(("rule", "kind"), CASES)
def test_a_run_resumed_inside_a_step_is_the_unbroken_one(rule, kind, tmp_path):
    path = tmp_path / "inside.ckpt"
    unbroken = train(rule, kind, batch_size=2, micro=3, callbacks=[Save(path, (1, 1))])
    held = torch.load(path, weights_only=True)["training_state"]["held"]
    assert [len(of_rank) for of_rank in held] == [2]
    resumed = train(rule, kind, batch_size=2, micro=3, ckpt_path=path, seed=0)
    assert_same(resumed, unbroken, tolerance=0)


def strategies() -> dict[str, Strategy | str]:
    return {"ddp": "ddp", "fsdp2": ShardedStrategy(2, 1), "tp": ShardedStrategy(1, 2)}


def on_two_cases() -> list[tuple[str, str, str]]:
    return [(rule, kind, name) for rule in EVERY for kind, names in ON_TWO.items() for name in names]


def on_two(folder: Path) -> None:
    """Train every case on two processes; resume inside a step on them, too."""
    two = {"batch_size": 4, "micro": 2, "devices": 2}
    for rule, kind, name in on_two_cases():
        path, resumed = folder / f"{rule} {kind} {name}.ckpt", kind == "preference" and name in RESUMED
        save = [Save(path, (1, 0))] if resumed else []
        found = again = train(rule, kind, **two, strategy=strategies()[name], callbacks=save)
        if resumed:
            again = train(rule, kind, **two, strategy=strategies()[name], ckpt_path=path)
        if os.environ["RANK"] == "0":
            torch.save((found, again), folder / f"{rule} {kind} {name}.pt")
        torch.distributed.barrier()


@pytest.mark.slow(minutes=2)
def test_two_processes_are_one(tmp_path):
    spawn(2, on_two, tmp_path)
    alone = {(rule, kind): train(rule, kind, batch_size=4, micro=2) for rule, kind in product(EVERY, ON_TWO)}
    for rule, kind, name in on_two_cases():
        found, again = torch.load(tmp_path / f"{rule} {kind} {name}.pt")
        assert_same(found, alone[rule, kind], tolerance=1e-6)  # some norms compute in float32
        assert_same(again, found, tolerance=1e-9)
