"""The statistics of a step, of all roles, from as few products of the head as there can be.

Shapes: N labelled tokens of a batch, n of a role, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_unlearn.data.packing import PackedBatch
from lightning_unlearn.head import Head
from lightning_unlearn.reference import Reference, compares, without_log_prob
from lightning_unlearn.reference_cache import ReferenceCache
from unlearn_kernels import TokenStatistics


def role_statistics(
    head: Head,
    hidden: Tensor,
    batch: PackedBatch,
    statistics: Mapping[str, tuple[str, ...]],
    reference: Reference | ReferenceCache | None,
) -> dict[str, TokenStatistics]:
    """Compute the statistics of every role of a batch, fields of [n].

    Args:
        head: the model's output head.
        hidden: the model's hidden states of the batch, [N, D].
        batch: rows of all roles.
        statistics: fields of `TokenStatistics` that are wanted, by role.
        reference: what fields that compare are compared with; None where there is none of them.
    """
    ours, targets = _by_role(batch, hidden), _by_role(batch, batch.targets)
    theirs: dict[str, Tensor] = {}
    known: dict[str, Tensor] = {}  # log q of the targets, where nothing has to be computed for it
    their_head = None
    if reference is not None:
        chosen = batch.select([role for role in batch.roles if compares(statistics[role])])
        if isinstance(reference, ReferenceCache) and reference.kind == "log_prob":
            known = _by_role(chosen, reference.values(chosen))
        else:
            theirs, their_head = _by_role(chosen, reference.hidden_states(chosen)), reference.head()
    wanted = {role: without_log_prob(statistics[role]) if known else statistics[role] for role in targets}
    found: dict[str, TokenStatistics] = {}
    for roles in _groups(wanted, head):
        fields = tuple(dict.fromkeys(field for role in roles for field in wanted[role]))
        options = {}
        if roles[0] in theirs:
            options = {"reference_hidden": _end_to_end(theirs, roles), "reference": their_head}
        stats = head.statistics(_end_to_end(ours, roles), _end_to_end(targets, roles), fields, **options)
        sizes = [len(targets[role]) for role in roles]
        parts = {field: getattr(stats, field).split(sizes) for field in fields}
        found |= {role: TokenStatistics(**{f: parts[f][i] for f in fields}) for i, role in enumerate(roles)}
    return found | {role: found[role]._replace(reference_log_prob=value) for role, value in known.items()}


def _groups(wanted: Mapping[str, tuple[str, ...]], head: Head) -> list[list[str]]:
    """Roles whose statistics are computed together.

    A head that trains gets one gradient of its size a group, so only roles without a reference are apart from those
    with one; a frozen head costs one product for each field of a group, so roles of other fields are apart.
    """
    groups: dict[object, list[str]] = {}
    for role, fields in wanted.items():
        groups.setdefault(compares(fields) if head.weight.requires_grad else frozenset(fields), []).append(role)
    return list(groups.values())


def _by_role(batch: PackedBatch, x: Tensor) -> dict[str, Tensor]:
    return {role: x[batch.tokens(role)] for role in batch.roles}


def _end_to_end(parts: Mapping[str, Tensor], roles: Sequence[str]) -> Tensor:
    return parts[roles[0]] if len(roles) == 1 else torch.cat([parts[role] for role in roles])
