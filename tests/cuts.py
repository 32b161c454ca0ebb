"""An optimiser step cut into micro-batches and over ranks, as Lightning and data parallelism put it together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.data.sampling import UnlearningLoader
from tests.dense import assert_same_gradients


def check_cut(objective, model: nn.Module, rows: Mapping[str, Sequence[TokenRow]]) -> None:
    """Micro-batches of one forget row, two on each of two ranks, have the gradients of one batch of all rows.

    With three rows the last rank's second micro-batch holds a row that stands in for none.
    """
    plain = {role: group if role in ("forget", "retain") else [[row] for row in group] for role, group in rows.items()}
    (whole,) = UnlearningLoader(plain, batch_size=len(rows["forget"]))
    ranks = [UnlearningLoader(plain, batch_size=1, rank=r, world_size=2, accumulate=lambda: 2) for r in range(2)]
    model.zero_grad()
    for batch in (batch for loader in ranks for batch in loader):
        (objective.losses(batch)["loss"] / 4).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    objective.losses(whole)["loss"].backward()
    assert_same_gradients(ours, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
