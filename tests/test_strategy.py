"""Sharded checkpoints: whole or not there, read by any number of processes. One spawn runs all cases."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM

from lightning_unlearn.models import save_model
from lightning_unlearn.objectives.base import Objective
from lightning_unlearn.parts import whole
from lightning_unlearn.strategy import ShardedStrategy, recover
from tests.ranks import spawn
from tests.test_sharding import Rows, from_folder, model_of

MESHES = {1: (1, 1), 2: (2, 1)}
STEP = 3  # of 6, in the middle of the second epoch
KINDS = {"copy": "llama", "cached": "llama", "lora": "llama"}
SAVED = {"copy": False, "lora": False, "head": True}  # whether tied: an adapter on the head unties what is saved
MESHES_SAVED = ((2, 1), (1, 2))
# Checkpoints: folders or single files, after a step or in the middle of one, whose gradients they hold then.
NAMES = ("step", "single", "middle", "middle single")


class InTheMiddle(L.Callback):
    """Saves after the first micro-batch of the second epoch, of whose optimiser step it is a half."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 0):
            assert any(parameter.grad is not None for parameter in module.parameters())
            trainer.save_checkpoint(self.path)


def saver(folder: Path, name: str) -> L.Callback:
    if "middle" in name:
        return InTheMiddle(folder / f"{name}.ckpt")
    return ModelCheckpoint(folder, name, every_n_train_steps=STEP)


def accumulated(name: str) -> int:
    return 2 if "middle" in name else 1


def prepare(objective: Objective) -> None:
    objective.optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=0.01)
    objective.scheduler = "constant"  # the same however many steps there are


def fit(
    kind: str,
    folder: Path,
    world: int,
    *,
    resume: Path | None = None,
    sharded: bool = True,
    name: str = "step",
) -> Objective:
    objective = from_folder(kind, folder / KINDS[kind])
    prepare(objective)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=ShardedStrategy(*MESHES[world], "single" not in name) if sharded else "auto",
        default_root_dir=folder / f"{kind} {world} {name}",
        callbacks=[] if resume else [saver(folder / f"{kind} {world}", name)],
        enable_checkpointing=resume is None,  # else it would write over what the next one reads
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        max_epochs=2,
        max_steps=STEP if resume is None else -1,
        accumulate_grad_batches=accumulated(name),
    )
    trainer.fit(objective, Rows(), ckpt_path=resume)
    return objective


def weights(objective: Objective) -> dict[str, torch.Tensor]:
    return {name: whole(p).clone() for name, p in objective.model.named_parameters() if p.requires_grad}


def cases(world: int, folder: Path) -> None:
    for kind in KINDS:
        if world == 2:
            for name in NAMES:
                fit(kind, folder, 2, name=name)
        for of, name in product((1, 2), NAMES):
            found = weights(fit(kind, folder, world, resume=folder / f"{kind} {of}/{name}.ckpt", name=name))
            torch.save(found, folder / f"{kind} {of} {name} to {world}.pt")
        incomplete = folder / f"{kind} 1/incomplete.ckpt"
        with pytest.raises(ValueError, match="ckpt_path must hold every trained parameter, got one without"):
            fit(kind, folder, world, resume=incomplete)
    if world == 2:
        _save_all(folder)


def _save_all(folder: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh

    for (kind, tied), mesh in product(SAVED.items(), MESHES_SAVED):
        objective = from_folder(kind, folder / ("llama tied" if tied else "llama"))
        objective._device_mesh = init_device_mesh("cpu", mesh, mesh_dim_names=("data_parallel", "tensor_parallel"))
        _save(objective, folder / f"saved {kind} {mesh}")


def _save(objective: Objective, folder: Path) -> None:
    objective.configure_model()
    with torch.no_grad():
        for name, parameter in objective.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    save_model(objective.model, None, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes left, after one had left its checkpoints."""
    folder = tmp_path_factory.mktemp("strategy")
    model_of("llama").save_pretrained(folder / "llama")
    model_of("llama", tied=True).save_pretrained(folder / "llama tied")
    for kind in KINDS:
        for name in NAMES[1::2]:
            fit(kind, folder, 1, sharded=False, name=name)
        checkpoint = torch.load(folder / f"{kind} 1/single.ckpt", weights_only=True)
        checkpoint["state_dict"].popitem()
        torch.save(checkpoint, folder / f"{kind} 1/incomplete.ckpt")
    spawn(1, _one, folder)
    spawn(2, cases, 2, folder)
    spawn(1, cases, 1, folder)
    return folder


def _one(folder: Path) -> None:
    for kind in KINDS:
        for name in NAMES[::2]:
            fit(kind, folder, 1, name=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ranks", list(product((1, 2), (1, 2))))
def test_a_resumed_run_ends_as_the_unbroken_one(folder, tmp_path, kind, name, ranks):
    (tmp_path / KINDS[kind]).symlink_to(folder / KINDS[kind])
    alone, (of, to) = weights(_unbroken(kind, tmp_path, accumulated(name))), ranks
    found = torch.load(folder / f"{kind} {of} {name} to {to}.pt", weights_only=True)
    _same(found, alone)
    if "single" in name and ranks == (2, 1):  # a file that sharded processes wrote, read without sharding
        path = folder / f"{kind} 2/{name}.ckpt"
        _same(weights(fit(kind, tmp_path, 1, resume=path, sharded=False, name=name)), alone)


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def _unbroken(kind: str, folder: Path, accumulate: int) -> Objective:
    objective = from_folder(kind, folder / KINDS[kind])
    prepare(objective)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
    options["accumulate_grad_batches"] = accumulate
    trainer = L.Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, default_root_dir=folder, **options)
    trainer.fit(objective, Rows())
    return objective


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES_SAVED)
def test_a_sharded_model_is_saved_as_it_is(folder, mesh):
    saved = AutoModelForCausalLM.from_pretrained(folder / f"saved copy {mesh}")
    original = AutoModelForCausalLM.from_pretrained(folder / "llama")
    assert saved.state_dict().keys() == original.state_dict().keys()
    for name, value in original.state_dict().items():
        assert torch.equal(saved.state_dict()[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES_SAVED)
@pytest.mark.parametrize("kind", ["lora", "head"])
def test_a_sharded_adapter_is_merged(folder, tmp_path, kind, mesh):
    _save(from_folder(kind, folder / ("llama tied" if SAVED[kind] else "llama")), tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path)
    found = AutoModelForCausalLM.from_pretrained(folder / f"saved {kind} {mesh}")
    assert not found.config.tie_word_embeddings
    assert not expected.config.tie_word_embeddings
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-9, atol=1e-9)


def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(tmp_path):
    for name in ("a.ckpt.before", "b.ckpt.before", "b.ckpt", "c.ckpt.partial", "d.ckpt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    (tmp_path / "e.ckpt").write_text("a file")
    assert recover(tmp_path) == [tmp_path / "a.ckpt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "b.ckpt", "d.ckpt", "e.ckpt"]
    assert (tmp_path / "a.ckpt/which").read_text() == "a.ckpt.before"
    assert (tmp_path / "b.ckpt/which").read_text() == "b.ckpt"
    assert recover(tmp_path / "missing") == []
