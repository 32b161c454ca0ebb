"""Write a checkpoint of a run as a Hugging Face folder: the model is built again from the run's config.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as checkpoints
import yaml
from jsonargparse import ArgumentParser
from torch.distributed.checkpoint import FileSystemReader

from lightning_unlearn.models import load_tokenizer, save_model
from lightning_unlearn.objectives.base import Objective


def export(source: str | Path, output: str | Path, *, merge: bool = True) -> Path:
    """Write the model of a run's checkpoint into a folder that `from_pretrained` loads.

    Args:
        source: a checkpoint, `<run>/checkpoints/<name>.ckpt` (a file, or the folder of a sharded one), or a run
            folder, whose best checkpoint is taken where one was kept, else its last.
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
    if source.is_file() or _is_sharded(source):
        return source
    for name in ("best.ckpt", "last.ckpt"):
        found = source / "checkpoints" / name
        if found.is_file() or _is_sharded(found):
            return found
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
    if _is_sharded(checkpoint):
        state = _read_sharded(objective, checkpoint)
    else:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    problems = objective.load_state_dict(state, strict=False)
    trained = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    wrong = [*problems.unexpected_keys, *(trained & set(problems.missing_keys))]
    if wrong:
        raise ValueError(f"checkpoint must hold the trained weights of the run's model, got {checkpoint}: {wrong[0]}")


def _is_sharded(path: Path) -> bool:
    return (path / ".metadata").is_file()


def _read_sharded(objective: Objective, checkpoint: Path) -> dict[str, Any]:
    """Read the weights of a sharded checkpoint, those alone, straight into memory of their own size."""
    prefix = "state_dict."
    held = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    wanted = {name.removeprefix(prefix) for name in held if name.startswith(prefix)}
    state = {name: torch.empty_like(x) for name, x in objective.state_dict().items() if name in wanted}
    unknown = dict.fromkeys(wanted - state.keys())  # told by `load_weights`
    checkpoints.load({"state_dict": state}, checkpoint_id=checkpoint, no_dist=True)
    return {**state, **unknown}


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"source must be in a run folder with config.yaml, got no {path}")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
