"""How probable a model finds given answers: one packed forward a batch, no padding, no logits held.

What answers to one question begin with alike, their prompt, is computed once.

Shapes: M rows to score, N labelled tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from lightning_unlearn.data.bins import by_size
from lightning_unlearn.data.packing import PackedBatch, TokenRow, pack
from lightning_unlearn.data.prefixes import pack_groups, packed_tokens
from lightning_unlearn.forward import evaluating, hidden_states, shares_prefixes
from lightning_unlearn.head import output_head
from lightning_unlearn.parts import device_of, is_sharded
from lightning_unlearn.processes import gather

IN_DETAIL = ("log_prob", "entropy", "log_prob_variance", "top_token")
IN_SHORT = ("log_prob",)
_ANY = TokenRow(*(np.zeros(1, np.int64) for _ in range(3)))
Group = Sequence[TokenRow]


@dataclass(frozen=True, slots=True)
class RowLikelihood:
    """Likelihood of one row's labelled tokens; the last three are empty for a row that was scored in short.

    Attributes:
        targets: the labelled tokens.
        log_prob: log probability of each labelled token, nats.
        entropy: entropy of the prediction p at each, nats.
        log_prob_variance: variance of log p under p at each, nats^2.
        correct: whether the most probable token is the labelled one, 1 or 0.
    """

    targets: list[int]
    log_prob: list[float]
    entropy: list[float]
    log_prob_variance: list[float]
    correct: list[int]

    @property
    def nll(self) -> float:
        """Sum of -log p over the labelled tokens, nats."""
        return -sum(self.log_prob)

    @property
    def tokens(self) -> int:
        """Count of labelled tokens, eos included."""
        return len(self.log_prob)


def row_likelihoods(
    model: nn.Module, rows: Sequence[TokenRow], *, tokens_per_batch: int = 8192, in_detail: bool = True
) -> list[RowLikelihood]:
    """Compute the likelihood of each row's labels, in the rows' order; see `group_likelihoods`."""
    options = {"tokens_per_batch": tokens_per_batch, "in_detail": in_detail}
    return [row for group in group_likelihoods(model, [[row] for row in rows], **options) for row in group]


@torch.no_grad()
def group_likelihoods(
    model: nn.Module, groups: Sequence[Group], *, tokens_per_batch: int = 8192, in_detail: bool = True
) -> list[list[RowLikelihood]]:
    """Compute the likelihood of each row's labels, by groups: the first row of each in detail, the others in short.

    The model is in eval mode meanwhile. Where it is sharded over processes, all of them must call this, each with rows
    of its own, or with none; those that share a tensor-parallel group with the same rows.

    Args:
        model: a causal LM, see `lightning_unlearn.forward`.
        groups: tokenised rows, M in all; those of a group may begin alike.
        tokens_per_batch: most tokens in a batch; a longer group gets a batch of its own.
        in_detail: whether more is wanted of any row than log-probabilities.

    Raises:
        ValueError: if `tokens_per_batch` is below 1, or a group is empty.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch must be at least 1, got {tokens_per_batch}")
    empty = [number for number, group in enumerate(groups) if not group]
    if empty:
        raise ValueError(f"groups must hold at least one row each, got none in {empty[:10]}")
    device = device_of(model)
    longest = max((len(row.input_ids) for group in groups for row in group), default=1)
    share = any(len(group) > 1 for group in groups)
    if is_sharded(model):  # what one asks of the model, all must: they share its forwards
        asked = gather((share, longest))
        share, longest = any(one for one, _ in asked), max(length for _, length in asked)
    share = share and shares_prefixes(model, longest, device)
    sizes = [packed_tokens(group) if share else sum(len(row.input_ids) for row in group) for group in groups]
    batches = list(by_size(sizes, tokens_per_batch))
    if is_sharded(model):
        batches += [[]] * (max(gather(len(batches))) - len(batches))
    found: dict[int, list[RowLikelihood]] = {}
    with evaluating(model):
        for chosen in batches:
            mine = [groups[i] for i in chosen] or [[_ANY]]
            batch = pack_groups(mine) if share else pack({"rows": list(chain.from_iterable(mine))})
            scored = _scored(model, batch.to(device), mine, in_detail)
            found |= dict(zip(chosen, scored, strict=bool(chosen)))
    return [found[i] for i in range(len(groups))]


def _scored(
    model: nn.Module, batch: PackedBatch, groups: Sequence[Group], in_detail: bool
) -> list[list[RowLikelihood]]:
    """Likelihoods of the rows of a batch."""
    rows = [(row, in_detail and at == 0) for group in groups for at, row in enumerate(group)]
    counts = [len(row.targets) for row, _ in rows]
    hidden, head = hidden_states(model, batch), output_head(model)
    columns = {field: torch.zeros(len(batch.targets), dtype=torch.float64) for field in IN_DETAIL}
    detailed = torch.from_numpy(np.repeat([first for _, first in rows], counts))  # [N]
    for chosen, fields in ((detailed, IN_DETAIL), (~detailed, IN_SHORT)):
        index = chosen.nonzero().squeeze(1)
        if len(index) or is_sharded(model):
            on_device = index.to(hidden.device)
            statistics = head.statistics(hidden[on_device], batch.targets[on_device], fields)
            for field in fields:
                columns[field][index] = getattr(statistics, field).cpu().double()
    correct = (columns["top_token"] == batch.targets.cpu()).int()
    parts = [x.split(counts) for x in (columns["log_prob"], columns["entropy"], columns["log_prob_variance"], correct)]
    made = (
        RowLikelihood(row.targets.tolist(), log_prob.tolist(), *(_listed(x, first) for x in others))
        for (row, first), log_prob, *others in zip(rows, *parts, strict=True)
    )
    return [[next(made) for _ in group] for group in groups]


def _listed(values: Tensor, kept: bool) -> list:
    return values.tolist() if kept else []
