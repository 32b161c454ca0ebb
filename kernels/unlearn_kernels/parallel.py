"""The vocabulary sharded over the ranks of a tensor-parallel group.

Every rank holds some rows of the head and runs the same passes over them. What crosses between ranks is one number a rank
(the size of its shard), one all-gather of the few sums of a `Partial` a token, and in backward one all-reduce of the
hidden states' gradient. Sums merge in rank order, so every rank holds bit-identical statistics.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from unlearn_kernels.merge import Partial, merge
from unlearn_kernels.passes import Sums


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


def merge_ranks(sums: Sums, group: dist.ProcessGroup) -> Sums:
    """Merge the sums of all ranks with one all-gather; kept tiles stay with their rank."""
    records = [sums.own.tensors(), [sums.label_logit]]
    if sums.reference is not None and sums.label_reference is not None:
        records += [sums.reference.tensors(), [sums.label_reference]]
    flat = [x for record in records for x in record]
    present = [x for x in flat if x is not None]
    packed = torch.stack([x.double() for x in present])  # float64 holds every float32 and every column index exactly
    own = reference = label_logit = label_reference = None
    for rank in _gather(packed, group):
        values = iter([x.to(like.dtype) for x, like in zip(rank, present, strict=True)])
        parts = [[None if x is None else next(values) for x in record] for record in records]
        own = Partial(*parts[0]) if own is None else merge(own, Partial(*parts[0]))
        label_logit = _maximum(label_logit, parts[1][0])
        if len(parts) > 2:
            reference = Partial(*parts[2]) if reference is None else merge(reference, Partial(*parts[2]))
            label_reference = _maximum(label_reference, parts[3][0])
    assert own is not None and label_logit is not None
    return Sums(own, reference, label_logit, label_reference, sums.kept)


def _maximum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else torch.maximum(a, b)


def _gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.stack(parts)
