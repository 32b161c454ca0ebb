"""What a run card tells of settings, and what it keeps to itself."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from lightning_unlearn.callbacks.run_card import class_path, describe, options, parameters, versions


@dataclasses.dataclass
class Lora:
    r: int = 8
    targets: tuple[str, ...] = ("q_proj",)


class Base:
    def __init__(self, model, *, weight=1.0, **more) -> None:
        self.source, self.model, self.weight = model, torch.nn.Linear(1, 1), weight


class Child(Base):
    def __init__(self, model, *, beta=0.1, lora=None, dropped=None, refusals=None, **more) -> None:
        super().__init__(model, **more)
        self.beta, self.lora = beta, lora

    def refusals(self):  # bears the name of an argument, but is not its value
        return []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, None),
        (True, True),
        (1e-5, 1e-5),
        ("forget05", "forget05"),
        ("x" * 200, "<text of 200 characters>"),
        (Lora(), {"r": 8, "targets": ["q_proj"]}),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        (["a row of text"], "<list of 1>"),
        (list(range(17)), "<list of 17>"),
        ([{"question": "Who?"}], "<list of 1>"),
        (torch.nn.Linear(1, 1), "<Linear>"),
        (len, "<len>"),
        (torch.zeros(3), "<Tensor>"),
    ],
)
def test_describe(value, told):
    assert describe(value) == told


def test_a_loaded_model_is_named():
    model = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace(_name_or_path="some/model")
    assert describe(model) == "<Linear of some/model>"


def test_options_of_all_classes_by_signature():
    found = options(Child("some/model", beta=0.2, lora=Lora(), weight=3.0))
    assert found == {"model": "some/model", "beta": 0.2, "lora": {"r": 8, "targets": ["q_proj"]}, "weight": 3.0}


def test_parameters_of_the_model_alone():
    model, reference = torch.nn.Linear(2, 3), torch.nn.Linear(100, 100)
    model.bias.requires_grad = False
    module = torch.nn.Module()
    module.model, module.reference = model, reference
    assert parameters(module) == {"trainable": 6, "total": 9}
    assert parameters(reference) == {"trainable": 10_100, "total": 10_100}


def test_versions_and_class_path():
    assert versions()["torch"] == torch.__version__
    assert class_path(Lora()).endswith(".Lora")
