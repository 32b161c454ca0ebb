"""Several processes for a test, started as torchrun would have started them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import torch
from torch import multiprocessing


def spawn(world: int, function: Callable[..., None], *arguments: object) -> None:
    """Call `function(*arguments)` in `world` processes at once; the first that fails ends all with its error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_process, (world, port, function, arguments), nprocs=world)


def _process(rank: int, world: int, port: int, function: Callable[..., None], arguments: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
    )
    os.environ.pop("PL_GLOBAL_SEED", None)  # an earlier test may have set it, and a strategy seeds with it again
    torch.set_num_threads(1)
    function(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # neither goes away while the other still talks
        torch.distributed.destroy_process_group()
