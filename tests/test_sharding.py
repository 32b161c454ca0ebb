"""Sharded models give the losses, gradients and weights of one process. One spawn a world size runs all its cases."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lightning_unlearn.data.packing import pack
from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.models import Lora, add_lora
from lightning_unlearn.objectives.base import Objective
from lightning_unlearn.objectives.maximize_entropy import MaximizeEntropy
from lightning_unlearn.objectives.npo import NPO
from lightning_unlearn.sharding import clip_gradients, units
from tests.dense import ROWS, assert_same_gradients, make_rows, tiny
from tests.quiet import QUIET
from tests.ranks import spawn

LLAMA_LIKE = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt_neox")
ARCHITECTURES = (*LLAMA_LIKE, "gpt2")
SIZES = {"sliding_window": 6, "head_dim": 4, "layer_types": ["sliding_attention", "full_attention"]}
MESHES = {2: ((2, 1), (1, 2)), 4: ((2, 2),)}  # (data parallel, tensor parallel) by world size


def model_of(arch: str, *, tied: bool = False) -> nn.Module:
    options = dict(SIZES) if arch in ("gemma2", "gemma3_text") else {}
    return tiny(arch, tie_word_embeddings=tied, **options)


def with_adapters(model: nn.Module) -> nn.Module:
    """LoRA whose adapters have already changed the model."""
    model = add_lora(model, Lora(dropout=0.0))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def objective_of(kind: str, arch: str, *, tied: bool) -> Objective:
    model = model_of(arch, tied=tied)
    if kind == "entropy":
        return MaximizeEntropy(model, retain="nll")
    if kind == "copy":
        return NPO(model, retain="kl", reference="copy")
    if kind == "checkpointing":
        return NPO(model, retain="kl", reference="copy", gradient_checkpointing=True)
    return NPO(with_adapters(model), retain="kl", reference="adapter")


FOLDERS = {"entropy": ("gemma3_text", "llama"), "copy": ("llama",), "lora": ("llama", "gpt_neox")}


def from_folder(kind: str, folder: Path) -> Objective:
    """An objective whose processes read their parts of the weights from files."""
    torch.manual_seed(7)  # adapters are drawn
    if kind == "entropy":
        return MaximizeEntropy(folder, retain="nll")
    if kind == "copy":
        return NPO(folder, retain="kl", reference="copy")
    return NPO(folder, retain="kl", lora=Lora(dropout=0.0))


def whole(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def gradients(objective: Objective) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    objective.configure_model()
    objective.model.train(objective.gradient_checkpointing)  # in eval mode there is none, and no dropout
    loss = objective.losses(pack(ROWS))["loss"]
    (2 * loss).backward()
    named = objective.model.named_parameters()
    return loss.detach(), {name: whole(p.grad) for name, p in named if p.grad is not None}


def compare(make: Callable[[], Objective], mesh: tuple[int, int]) -> None:
    alone, sharded = gradients(make()), make()
    sharded._device_mesh = init_device_mesh("cpu", mesh, mesh_dim_names=("data_parallel", "tensor_parallel"))
    for _ in range(2):  # twice: what the first step leaves gathered or cut must not spoil the second
        sharded.zero_grad()
        loss, found = gradients(sharded)
        torch.testing.assert_close(loss, alone[0], rtol=1e-7, atol=1e-7)
        assert_same_gradients(found, alone[1], tolerance=1e-7)  # some norms compute in float32
    assert any(isinstance(p, DTensor) for p in sharded.model.parameters())


def cases(world: int) -> list[tuple[str, str, bool, tuple[int, int]]]:
    kinds = [("entropy", False), ("copy", True), ("adapter", False), ("adapter", True), ("checkpointing", False)]
    of_llama = [(kind, "llama", tied, mesh) for (kind, tied), mesh in product(kinds, MESHES[world])]
    others = [
        ("copy" if i % 2 else "adapter", arch, bool(i % 3), mesh)
        for (i, arch), mesh in product(enumerate(ARCHITECTURES), MESHES[world])
        if not (arch == "gpt2" and mesh[1] > 1)
    ]
    return of_llama + others


def all_parity_cases(world: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    made = [(partial(objective_of, kind, arch, tied=tied), mesh) for kind, arch, tied, mesh in cases(world)]
    for (kind, archs), tied, mesh in product(FOLDERS.items(), (False, True), MESHES[world]):
        made += [(partial(from_folder, kind, folder / f"{arch} {tied}"), mesh) for arch in archs]
    for case in made:
        try:
            compare(*case)
        except Exception as error:
            raise AssertionError(f"{case}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("world", MESHES)
def test_losses_and_gradients_are_those_of_one_process(tmp_path, world):
    for arch, tied in product({arch for archs in FOLDERS.values() for arch in archs}, (False, True)):
        model_of(arch, tied=tied).save_pretrained(tmp_path / f"{arch} {tied}")
    spawn(world, all_parity_cases, world, tmp_path)


class Rows(L.LightningDataModule):
    """9 forget rows, which no batch size divides."""

    def train_dataloader(self) -> UnlearningLoader:
        share = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        rows = {
            "forget": make_rows([1, 9, 2, 6, 1, 1, 8, 3, 12], seed=5),
            "retain": make_rows([7, 1, 1, 10, 2], seed=6),
        }
        return UnlearningLoader(
            rows,
            batch_size=4 // share["num_replicas"],
            rank=share["rank"],
            world_size=share["num_replicas"],
            accumulate=lambda: self.trainer.accumulate_grad_batches,
        )


RUNS = {  # objective kind, tied, Trainer's options
    "full": ("copy", False, {}),
    "tied, accumulated": ("copy", True, {"accumulate_grad_batches": 2}),
    "lora, clipped": ("adapter", False, {"gradient_clip_val": 0.05}),
    "entropy, clipped by value": (
        "entropy",
        True,
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value", "accumulate_grad_batches": 2},
    ),
}


def train(name: str, folder: Path, *, mesh: tuple[int, int] | None = None, **more) -> dict[str, torch.Tensor]:
    kind, tied, options = RUNS[name]
    torch.manual_seed(0)
    objective = objective_of(kind, "llama", tied=tied)
    objective.optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=0.01)
    if mesh is not None:
        strategy = ModelParallelStrategy(data_parallel_size=mesh[0], tensor_parallel_size=mesh[1])
        more |= {"devices": mesh[0] * mesh[1], "strategy": strategy}
    trainer = L.Trainer(
        **QUIET,
        use_distributed_sampler=False,
        max_epochs=2,
        default_root_dir=folder,
        **{"devices": 1, **options, **more},
    )
    trainer.fit(objective, Rows())
    return {name: whole(p.detach()).clone() for name, p in objective.model.named_parameters()}


def all_training_runs(world: int, folder: Path) -> None:
    for name, mesh in product(RUNS, MESHES[world]):
        found = train(name, folder, mesh=mesh)
        if torch.distributed.get_rank() == 0:
            torch.save(found, folder / f"{name} {mesh}.pt")
        torch.distributed.barrier()


@pytest.mark.slow
@pytest.mark.parametrize("world", MESHES)
def test_training_is_that_of_one_process(tmp_path, world):
    spawn(world, all_training_runs, world, tmp_path)
    for name in RUNS:
        alone = train(name, tmp_path)
        for mesh in MESHES[world]:
            found = torch.load(tmp_path / f"{name} {mesh}.pt")
            assert found.keys() == alone.keys()
            for weight, value in alone.items():
                torch.testing.assert_close(
                    found[weight], value, rtol=1e-7, atol=1e-8, msg=lambda m, n=f"{name} {mesh} {weight}": f"{n}: {m}"
                )


def test_units_are_layers_embedding_head_and_the_rest():
    model = model_of("llama")
    *layers, embedding, head, root = units(model)
    assert layers == list(model.model.layers)
    assert (embedding, head, root) == (model.model.embed_tokens, model.lm_head, model)
    tied = model_of("gpt2", tied=True)
    assert units(tied) == [*tied.transformer.h, tied]


def test_clipping_is_pytorchs():
    for options, theirs in (
        ({"norm": 0.5}, lambda p: nn.utils.clip_grad_norm_(p, 0.5)),
        ({"norm": 50.0}, lambda p: nn.utils.clip_grad_norm_(p, 50.0)),
        ({"value": 0.1}, lambda p: nn.utils.clip_grad_value_(p, 0.1)),
    ):
        ours, expected = (
            [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))] for _ in range(2)
        )
        for parameters in (ours, expected):
            parameters[0].grad, parameters[1].grad = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.05, -0.7])
        clip_gradients(ours, **options)
        theirs(expected)
        for a, b in zip(ours[:2], expected[:2], strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_a_strategy_that_gathers_weights_in_forward_alone_is_refused():
    objective = MaximizeEntropy(tiny())
    objective._trainer = SimpleNamespace(strategy=FSDPStrategy(), datamodule=None)
    with pytest.raises(ValueError, match=r"ShardedStrategy to shard a model, got .*FSDPStrategy"):
        objective.setup("fit")


def test_what_cannot_be_sharded_is_refused():
    from lightning_unlearn.sharding import _tensor_parallel, shard

    class Mesh:
        def size(self) -> int:
            return 3

    with pytest.raises(ValueError, match="transformers causal LM to be sharded, got Linear"):
        shard(nn.Linear(2, 2), None)
    with pytest.raises(ValueError, match="must divide num_attention_heads = 4, got 3"):
        _tensor_parallel(tiny(), Mesh())
    with pytest.raises(ValueError, match="GPT2LMHeadModel, which has no tensor-parallel plan; got 3"):
        _tensor_parallel(tiny("gpt2"), Mesh())
    with pytest.raises(ValueError, match="lora must not be on the output head"):
        shard(add_lora(tiny(), Lora(target_modules=["lm_head"])), None)
