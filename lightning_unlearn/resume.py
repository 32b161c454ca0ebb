"""What a checkpoint must hold beside weights and optimiser, so that a resumed run is the unbroken one to the last bit.

Lightning restores weights, optimiser, schedule and progress. Missing are the random state (dropout), the position of a
loader that was made before the checkpoint was read, and the gradients of an optimiser step that a checkpoint fell in
the middle of.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch


def training_state(module: L.LightningModule, *, step_open: bool) -> dict[str, Any]:
    """Return the random state and, in the middle of an optimiser step, the gradients so far.

    Args:
        module: the module in training.
        step_open: whether gradients have been accumulated that no optimiser step has used yet.
    """
    state: dict[str, Any] = {"random": {"cpu": torch.get_rng_state()}, "gradients": {}}
    if module.device.type == "cuda":
        state["random"]["cuda"] = torch.cuda.get_rng_state(module.device)
    if step_open:
        state["gradients"] = {n: p.grad.detach() for n, p in module.named_parameters() if p.grad is not None}
    return state


def loader_position(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """Return the position of the training loader that Lightning saved, if it saved one."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    states = loop.get("state_dict", {}).get("combined_loader", [])
    return states[0] if states else None


def restore(module: L.LightningModule, state: dict[str, Any], position: dict[str, Any] | None) -> None:
    """Continue batches, random stream and gradients; to be called when training starts.

    Lightning gives a loader its position only if it makes the loader after it read the checkpoint; but to count the
    steps of the schedule, `configure_optimizers` had it made before.
    """
    loader = module.trainer.train_dataloader
    if position is not None and hasattr(loader, "load_state_dict"):
        loader.load_state_dict(position)
    random = state.get("random", {})
    if "cpu" in random:
        torch.set_rng_state(random["cpu"].cpu())
    if "cuda" in random and module.device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"].cpu(), module.device)
    parameters = dict(module.named_parameters())
    for name, gradient in state.get("gradients", {}).items():
        parameters[name].grad = gradient.to(parameters[name])
