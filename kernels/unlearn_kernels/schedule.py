"""Which passes a call makes over the head: what follows from who needs a gradient, the fields and the workspace.

G stands for one matrix product of the head, 2 N D V operations. Of the schedules that can serve a call the one with the
fewest products is taken, the first of equals:

    no gradient       each logit is formed once
    recompute         logits are reduced, and formed again for the gradient unless they were kept
    unit gradients    d_field/d_hidden is formed for every field beside its value, a block of tokens after another,
                      while the block's logits are there; backward scales its rows. Needs a head without gradient.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unlearn_kernels.tiles import Demand, Tiling, budget, plan, plan_blocks


@dataclass(frozen=True)
class Schedule:
    """How a call runs.

    Attributes:
        name: "no gradient", "recompute" or "unit gradients".
        logits: products [N, D] by [D, V] that form logits, the model's and the reference's, forward and backward.
        hidden: products [N, V] by [V, D] for gradients of hidden states.
        weight: products [V, N] by [N, D] for gradients of the head.
        tiling: the tiles; the blocks of tokens of "unit gradients" run one after the other.
    """

    name: str
    logits: float
    hidden: float
    weight: float
    tiling: Tiling

    @property
    def products(self) -> float:
        """Products of the head in total."""
        return self.logits + self.hidden + self.weight

    def __str__(self) -> str:
        rows, columns = (max(s.stop - s.start for s in cuts) for cuts in (self.tiling.rows, self.tiling.columns))
        tiles = f"{len(self.tiling.rows)} x {len(self.tiling.columns)} tiles of {rows} tokens x {columns} columns"
        parts = f"{self.logits:.2f} logits + {self.hidden:.0f} hidden + {self.weight:.0f} weight"
        return f"{self.name}: {self.products:.2f} G ({parts}), {tiles}, {self.tiling.kept} slices kept"


@dataclass(frozen=True)
class Work:
    """What a call is asked for.

    Attributes:
        tokens: N.
        vocabulary: V of this rank.
        needs_hidden: whether the hidden states need a gradient.
        needs_weight: whether the head does.
        needs_other: whether a bias or an adapter does.
        fields: differentiable fields that were asked for.
        has_reference: whether there is a reference.
        compares: whether its logits are needed for a gradient.
        sharded: whether other ranks hold more of the vocabulary.
    """

    tokens: int
    vocabulary: int
    needs_hidden: bool
    needs_weight: bool
    needs_other: bool
    fields: int
    has_reference: bool
    compares: bool
    sharded: bool


def choose(work: Work, once: Demand, unit: Demand, device: torch.device, workspace_bytes: int | None) -> Schedule:
    """Choose the schedule of a call.

    Args:
        work: what is asked for.
        once: what "no gradient" and "recompute" take.
        unit: what "unit gradients" takes.
        device: where the tensors are.
        workspace_bytes: cap on temporary memory, None for the default.
    """
    shape = (work.tokens, work.vocabulary)
    forward = 1.0 + work.has_reference
    keep = work.needs_hidden or work.needs_weight or work.needs_other
    tiling = plan(*shape, once, device, budget(once, device, workspace_bytes), keep)
    if not keep:
        return Schedule("no gradient", forward, 0, 0, tiling)
    kept = tiling.columns[tiling.kept].start if tiling.kept < len(tiling.columns) else work.vocabulary
    again = (1 - kept / work.vocabulary) * (1 + work.compares)
    recompute = Schedule("recompute", forward + again, float(work.needs_hidden), float(work.needs_weight), tiling)
    if work.needs_weight or work.needs_other or work.sharded or forward + work.fields >= recompute.products:
        return recompute
    blocks = plan_blocks(*shape, unit, device, budget(unit, device, workspace_bytes))
    return recompute if blocks is None else Schedule("unit gradients", forward, float(work.fields), 0, blocks)
