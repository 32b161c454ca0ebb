"""Write a checkpoint of a run as a Hugging Face folder: the model is built again from the run's config.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_unlearn.models import load_tokenizer, save_model
from lightning_unlearn.objectives.base import Objective


def export(source: str | Path, output: str | Path, *, merge: bool = True) -> Path:
    """Write the model of a run's checkpoint into a folder that `from_pretrained` loads.

    Args:
        source: a checkpoint, `<run>/checkpoints/<name>.ckpt`, or a run folder, whose best checkpoint is taken where one
            was kept, else its last.
        output: the folder to write.
        merge: merge LoRA into the weights; otherwise write the adapter alone.

    Returns:
        The folder written.

    Raises:
        ValueError: if there is no checkpoint or no config.yaml, they do not fit, or an adapter is asked of a model that
            has none.
    """
    checkpoint = find_checkpoint(Path(source))
    config = _read_config(checkpoint.parent.parent / "config.yaml")
    objective = build_objective(config["model"])
    if not merge and objective.lora is None:
        raise ValueError(f"merge must be true for a run without LoRA, got false for {source}")
    objective.configure_model()
    load_weights(objective, checkpoint)
    tokenizer = config["data"]["init_args"].get("tokenizer") or config["model"]["init_args"]["model"]
    save_model(objective.model, load_tokenizer(tokenizer), output, merge_lora=merge)
    return Path(output)


def find_checkpoint(source: Path) -> Path:
    """Find the checkpoint that a path means: itself, or the best, else the last, of a run folder.

    Raises:
        ValueError: if there is none.
    """
    if source.is_file():
        return source
    for name in ("best.ckpt", "last.ckpt"):
        if (source / "checkpoints" / name).is_file():
            return source / "checkpoints" / name
    raise ValueError(f"source must be a checkpoint or a run folder with checkpoints/last.ckpt, got {source}")


def build_objective(config: dict[str, Any]) -> Objective:
    """Make the objective that a configuration names: {"class_path": ..., "init_args": {...}}."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "model")
    return parser.instantiate_classes(parser.parse_object({"model": config})).model


def load_weights(objective: Objective, checkpoint: Path) -> None:
    """Load a checkpoint's weights into a configured objective; frozen ones may be missing, as with LoRA.

    Raises:
        ValueError: if a weight of the checkpoint has no place, or a trained one is missing.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    problems = objective.load_state_dict(state, strict=False)
    trained = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    wrong = [*problems.unexpected_keys, *(trained & set(problems.missing_keys))]
    if wrong:
        raise ValueError(f"checkpoint must hold the trained weights of the run's model, got {checkpoint}: {wrong[0]}")


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"source must be in a run folder with config.yaml, got no {path}")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
