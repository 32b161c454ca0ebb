"""The vocabulary sharded over the ranks of a tensor-parallel group.

Every rank holds some rows of the head and runs the same passes over them. What crosses between ranks is one number a
rank (the size of its shard), one all-gather of the few sums of a `Partial` a token, and in backward one all-reduce of
the hidden states' gradient. Sums merge in rank order, so every rank holds bit-identical statistics.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from unlearn_kernels.merge import Side, merge_all


def shard(rows: int, group: dist.ProcessGroup, device: torch.device) -> tuple[Tensor, Tensor]:
    """First row of this rank's shard, and the size of the whole vocabulary, as scalars on the device.

    Args:
        rows: rows of the head on this rank.
        group: the tensor-parallel group.
        device: where the scalars go; nothing is read back to the host.
    """
    sizes = _gather(torch.tensor([rows], device=device), group).squeeze(1)
    before = torch.arange(len(sizes), device=device) < dist.get_rank(group)
    return (sizes * before).sum(), sizes.sum()


def merge_ranks(own: Side, reference: Side | None, group: dist.ProcessGroup) -> tuple[Side, Side | None]:
    """Merge the sums of all ranks with one all-gather.

    Args:
        own: this rank's sums of the model.
        reference: this rank's sums of the reference, or None.
        group: the tensor-parallel group.
    """
    sides = [own] if reference is None else [own, reference]
    flat = [x for side in sides for x in side.tensors()]
    present = [x for x in flat if x is not None]
    packed = torch.stack([x.double() for x in present])  # float64 holds every float32 and every column index exactly
    received = []
    for rank in _gather(packed, group):
        values = iter([x.to(like.dtype) for x, like in zip(rank, present, strict=True)])
        received.append([_receive(side, values) for side in sides])
    merged = [merge_all(parts) for parts in zip(*received, strict=True)]
    return merged[0], merged[1] if len(merged) > 1 else None


def _receive(like: Side, values: Iterator[Tensor]) -> Side:
    return Side.of([None if x is None else next(values) for x in like.tensors()])


def _gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.stack(parts)
