"""Lightning's `ModelParallelStrategy` with checkpoints that are whole or not there, read by any number of ranks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, OptimStateKeyType

PARTIAL, BEFORE = ".partial", ".before"


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2, tensor parallel, or both; the model's own plan is in `lightning_unlearn.sharding`.

    Args: as `ModelParallelStrategy` takes them. `save_distributed_checkpoint=False` gathers a checkpoint into one file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write beside the place of the checkpoint first: one that is cut off never replaces the last good one."""
        if not self._save_distributed_checkpoint:  # one file, which Lightning replaces at once
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        path = Path(self.broadcast(filepath))
        partial, before = path.with_name(path.name + PARTIAL), path.with_name(path.name + BEFORE)
        if self.is_global_zero:
            _remove(partial)
        self.barrier()
        super().save_checkpoint(checkpoint, partial, storage_options)
        self.barrier()
        if self.is_global_zero:
            _remove(before)
            if path.exists():
                os.replace(path, before)
            os.replace(partial, path)
            _remove(before)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a sharded checkpoint, or a single file that any strategy wrote."""
        path = Path(self.broadcast(checkpoint_path))
        if not path.is_file():
            return super().load_checkpoint(path, weights_only)
        checkpoint = torch.load(path, mmap=True, map_location="cpu", weights_only=weights_only)
        assert self.model is not None
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # what an earlier forward left gathered is no place to load into
        whole = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=whole)
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", ()), strict=False):
            if any(isinstance(key, int) for key in state["state"]):  # by number, as PyTorch has them
                state = FullyShardedDataParallel.rekey_optim_state_dict(state, OptimStateKeyType.PARAM_NAME, self.model)
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=state, options=whole)
        return checkpoint


def recover(folder: str | Path) -> list[Path]:
    """Put back checkpoints that a kill left moved aside, and remove those that were never finished.

    Args:
        folder: of a run's checkpoints.

    Returns:
        The checkpoints that were put back.
    """
    back = []
    for before in Path(folder).glob(f"*{BEFORE}"):
        path = before.with_name(before.name.removesuffix(BEFORE))
        if path.exists():
            shutil.rmtree(before)
        else:
            os.replace(before, path)
            back.append(path)
    for partial in Path(folder).glob(f"*.ckpt{PARTIAL}"):
        _remove(partial)
    return back


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
