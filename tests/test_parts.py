from __future__ import annotations

from types import SimpleNamespace

import torch

from lightning_unlearn import parts
from lightning_unlearn.parts import device_of, is_sharded, mesh_rank, whole
from tests.dense import tiny


class Part(SimpleNamespace):
    """A sharded weight that is kept on the host, whose mesh is of GPUs."""

    def __init__(self) -> None:
        super().__init__(device=torch.device("cpu"), moves=[])
        self.device_mesh = SimpleNamespace(
            device_type="cuda", mesh_dim_names=("data_parallel",), get_local_rank=lambda dimension: 2
        )

    def to(self, device: str):
        self.moves.append(device)
        return self

    def full_tensor(self) -> str:
        return f"gathered on {self.moves[-1]}"


def holding(*parameters) -> SimpleNamespace:
    return SimpleNamespace(parameters=lambda: iter(parameters))


def test_a_model_on_one_process_is_whole():
    model, x = tiny(), torch.ones(2)
    assert device_of(model) == torch.device("cpu")
    assert not is_sharded(model)
    assert mesh_rank(model, "data_parallel") == 0
    assert whole(x) is x


def test_a_part_on_the_host_belongs_to_its_device(monkeypatch):
    monkeypatch.setattr(parts, "DTensor", Part)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    model = holding(torch.ones(1), Part())
    assert device_of(model) == torch.device("cuda", 3)
    assert is_sharded(model)
    assert mesh_rank(model, "data_parallel") == 2
    assert mesh_rank(model, "tensor_parallel") == 0
    assert whole(Part()) == "gathered on cuda"
