"""What the processes of a group tell each other; a process without a group is a group of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if _grouped() else 0


def world_size() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if _grouped() else 1


def gather(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks; every process must call it, as all below."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def together(make: Callable[[], T]) -> T:
    """Return what a function returns here, once it has returned everywhere: where it fails, all processes fail.

    The function must not wait for other processes itself.

    Raises:
        RuntimeError: if it failed on another process.
        Exception: what it raised here.
    """
    if world_size() == 1:
        return make()
    result, error = None, None
    try:
        result = make()
    except Exception as caught:
        error = caught
    failures = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for number, failure in enumerate(failures):
        if failure is not None:
            raise RuntimeError(f"process {number} failed: {failure}")
    return result


def from_first(make: Callable[[], T]) -> T:
    """Return on every process what a function returns on the first, which alone calls it: it may have the only disk.

    Raises:
        RuntimeError: if it failed on the first process.
        Exception: what it raised there.
    """
    values = [together(lambda: make() if rank() == 0 else None)]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
