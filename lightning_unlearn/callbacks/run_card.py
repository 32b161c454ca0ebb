"""What a run card says about method, data, machine and versions: settings, hashes and counts, never a row's text."""

from __future__ import annotations

import dataclasses
import inspect
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn

FORMAT = "lightning-unlearn run 1"
PACKAGES = ("lightning-unlearn", "torch", "lightning", "transformers", "tokenizers", "peft", "datasets", "numpy")
LONGEST_TEXT, LONGEST_LIST = 120, 16


def settings(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """The part of a run card that is known before training."""
    data = getattr(trainer, "datamodule", None)
    return {
        "format": FORMAT,
        "method": {"class": class_path(pl_module), "hyperparameters": options(pl_module)},
        "data": None if data is None else data_settings(data),
        "seeds": {"global": _seed(), "data": getattr(data, "seed", None)},
        "trainer": trainer_settings(trainer),
        "hardware": hardware(trainer),
        "versions": versions(),
    }


def data_settings(data: LightningDataModule) -> dict[str, Any]:
    """Class and options of a data module, and the count and hash of the rows of each role where it tells them."""
    fingerprint = getattr(data, "fingerprint", None)
    card = {"class": class_path(data), "hyperparameters": options(data)}
    return {**card, **({"sets": fingerprint()} if fingerprint is not None else {})}


def trainer_settings(trainer: Trainer) -> dict[str, Any]:
    """The Trainer's settings that change what a run computes."""
    return {
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "strategy": type(trainer.strategy).__name__,
        "devices": trainer.num_devices,
        "nodes": trainer.num_nodes,
    }


def options(module: Any) -> dict[str, Any]:
    """The arguments that an object was made with, as far as it keeps them under their names."""
    kept = dict(getattr(module, "hparams", None) or {})
    found: dict[str, Any] = {}
    for base in type(module).__mro__:
        own = inspect.signature(base).parameters if "__init__" in vars(base) and base is not object else {}
        for name in own:
            if name in found or own[name].kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
                continue
            if name == "model" and hasattr(module, "source"):
                found[name] = describe(module.source)
            elif name in kept or not inspect.ismethod(getattr(module, name, module.__init__)):
                found[name] = describe(kept[name] if name in kept else getattr(module, name))
    return found


def describe(value: Any) -> Any:
    """A setting as JSON: numbers, names and short lists as they are, what could hold rows by its type and size.

    >>> describe([1, 2]), describe(["q_proj", "v_proj"]), describe(["He was born in Oslo.", "She was not."])
    ([1, 2], ['q_proj', 'v_proj'], '<list of 2>')
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, Path)):
        return str(value) if len(str(value)) <= LONGEST_TEXT else f"<text of {len(str(value))} characters>"
    if isinstance(value, nn.Module):
        name = getattr(getattr(value, "config", None), "_name_or_path", "")
        return f"<{type(value).__name__}{f' of {name}' if name else ''}>"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): describe(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        plain = all(item is None or isinstance(item, (bool, int, float)) or _is_name(item) for item in value)
        return list(value) if plain and len(value) <= LONGEST_LIST else f"<{type(value).__name__} of {len(value)}>"
    return f"<{getattr(value, '__qualname__', type(value).__qualname__)}>"


def hardware(trainer: Trainer) -> dict[str, Any]:
    """What the run runs on."""
    device = trainer.strategy.root_device
    return {
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": trainer.world_size,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run rests on; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def parameters(pl_module: LightningModule) -> dict[str, int]:
    """Trainable and total parameters of the model; a reference model is not counted."""
    model = getattr(pl_module, "model", None)
    counted = list((model if isinstance(model, nn.Module) else pl_module).parameters())
    trainable = sum(parameter.numel() for parameter in counted if parameter.requires_grad)
    return {"trainable": trainable, "total": sum(parameter.numel() for parameter in counted)}


def class_path(value: Any) -> str:
    """Module and name of an object's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and not any(character.isspace() for character in value)


def _seed() -> int | None:
    seed = os.environ.get("PL_GLOBAL_SEED", "")
    return int(seed) if seed.isdigit() else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
