"""Packed batches: every role of a step end to end in one row, without padding.

A batch does not know how its rows were made into tokens, nor what an objective will do with them. Labels are carried as
(position, target) pairs and never as shifted ids, so that a row may label a token which it does not read (the final
eos).

Shapes: T packed tokens, N labelled tokens, B rows (sequences), L longest row of a padded batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

IGNORE_INDEX = -100


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One tokenised row.

    Attributes:
        input_ids: int64 [n], the tokens that the model reads. A final eos is a target only, never an input.
        target_positions: int64 [m], index into `input_ids` of the position that predicts each target, ascending.
        targets: int64 [m], the labelled tokens.

    Raises:
        ValueError: if positions and targets do not belong together, or a position lies outside the row.
    """

    input_ids: np.ndarray
    target_positions: np.ndarray
    targets: np.ndarray

    def __post_init__(self) -> None:
        positions, length = self.target_positions, len(self.input_ids)
        if len(positions) != len(self.targets):
            counts = f"{len(positions)} and {len(self.targets)}"
            raise ValueError(f"a row must hold as many target_positions as targets, got {counts}")
        if (positions[1:] <= positions[:-1]).any():
            raise ValueError(f"target_positions must be ascending, got {positions.tolist()}")
        if len(positions) and not 0 <= positions[0] <= positions[-1] < length:
            raise ValueError(f"target_positions must lie in [0, {length}), got {positions.tolist()}")

    @property
    def sequence_tokens(self) -> int:
        """Count every token of the row that has a predecessor, question and answer (and the carried eos)."""
        carried = bool(len(self.target_positions)) and self.target_positions[-1] == len(self.input_ids) - 1
        return len(self.input_ids) - 1 + carried


class RoleScale(NamedTuple):
    """What a role's sums are multiplied by to become means over the whole optimiser step.

    Lightning divides each micro-batch by `accumulate_grad_batches` and data parallelism averages over ranks, so the
    loader sets each factor to (micro-batches x ranks) / (count in the whole step).
    """

    token: float
    row: float
    sequence_token: float


class RoleSpan(NamedTuple):
    """Where a role lies in a batch: half-open ranges of rows [B], labelled tokens [N] and packed tokens [T]."""

    rows: slice
    tokens: slice
    inputs: slice


@dataclass(eq=False)  # not frozen, and records inside are tuples: Lightning's precision plugins rebuild batches
class PackedBatch:
    """All roles of a micro-batch, end to end; not to be changed in place.

    Attributes:
        input_ids: int64 [T].
        position_ids: int64 [T], restarting at 0 with every row.
        target_index: int64 [N], index into [T] of the position that predicts each target.
        targets: int64 [N].
        target_row: int64 [N], the row that each target belongs to.
        lengths: tokens of each row (B of them, on the host).
        spans: role -> its ranges, in packing order.
        scales: role -> factors that turn sums into means over the optimiser step (default: over this batch).
        attended: bool [T], false where other tokens must not attend (padding that is kept on purpose), or None.
        sequence_roles: roles whose targets were widened to question and answer.
        retargeted: roles whose targets were replaced by others, so that it is not done twice.
        reference: role -> what the reference model says of its labelled tokens, [n, ...], where it was looked up.
        parents: number of the row that each row continues, -1 for none, see `data.prefixes`; None: no row does. Such a
            batch has one role, and is for models that can share prefixes.
    """

    input_ids: Tensor
    position_ids: Tensor
    target_index: Tensor
    targets: Tensor
    target_row: Tensor
    lengths: tuple[int, ...]
    spans: Mapping[str, RoleSpan]
    scales: Mapping[str, RoleScale] = field(default_factory=dict)
    attended: Tensor | None = None
    sequence_roles: frozenset[str] = frozenset()
    retargeted: frozenset[str] = frozenset()
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    parents: tuple[int, ...] | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the roles, in packing order."""
        return tuple(self.spans)

    @property
    def cu_seq_lens(self) -> Tensor:
        """int32 [B + 1]: where each row starts, and T."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.input_ids.device)

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device, *, non_blocking: bool = False) -> PackedBatch:
        """Return the batch on `device`; Lightning calls this."""
        tensors = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        reference = {role: value.to(device, non_blocking=non_blocking) for role, value in self.reference.items()}
        return replace(self, **tensors, reference=reference)

    def tokens(self, role: str) -> slice:
        """Return the range of the role's labelled tokens in [N]."""
        return self.spans[role].tokens

    def rows(self, role: str) -> slice:
        """Return the range of the role's rows in [B]."""
        return self.spans[role].rows

    def row_sums(self, values: Tensor, role: str) -> Tensor:
        """Sum the role's token values [n, ...] over each of its rows: [rows, ...]."""
        span = self.spans[role]
        index = self.target_row[span.tokens] - span.rows.start
        return values.new_zeros(span.rows.stop - span.rows.start, *values.shape[1:]).index_add(0, index, values)

    def row_tokens(self, role: str) -> Tensor:
        """Count the labelled tokens of each row of the role: [rows]."""
        return self.row_sums(torch.ones_like(self.targets[self.tokens(role)]), role)

    def token_mean(self, values: Tensor, role: str) -> Tensor:
        """Mean of the role's token values [n] over the labelled tokens of the optimiser step (0 without any)."""
        scale = self.scales.get(role)
        if scale is None:
            return values.sum() / max(values.numel(), 1)
        return values.sum() * (scale.sequence_token if role in self.sequence_roles else scale.token)

    def row_mean(self, values: Tensor, role: str) -> Tensor:
        """Mean of the role's row values [rows] over the rows of the whole optimiser step (0 without rows)."""
        scale = self.scales.get(role)
        return values.sum() / max(values.numel(), 1) if scale is None else values.sum() * scale.row

    def select(self, roles: Iterable[str]) -> PackedBatch:
        """Return the batch of these roles alone, in packing order."""
        wanted = set(roles)
        if wanted >= set(self.spans):
            return self
        parts = [_slice_role(self, role) for role in self.spans if role in wanted]
        if not parts:
            raise ValueError(f"roles must name some of the batch's roles {self.roles}, got {sorted(wanted)}")
        return concatenate(parts)

    def emptied(self, role: str) -> PackedBatch:
        """Return the batch without the role's rows; the role stays, and holds none."""
        kept = self.select(set(self.roles) - {role})
        ends = (len(kept), len(kept.targets), len(kept.input_ids))
        return replace(kept, spans={**kept.spans, role: RoleSpan(*(slice(end, end) for end in ends))})

    def with_sequence_targets(self, role: str) -> PackedBatch:
        """Return the batch with question and answer of the role's rows labelled; repeating it is harmless."""
        if role in self.sequence_roles:
            return self
        parts = [_widen(_slice_role(self, name)) if name == role else _slice_role(self, name) for name in self.spans]
        return replace(concatenate(parts), sequence_roles=self.sequence_roles | {role})

    def with_padding(self, role: str, length: int, pad_id: int) -> PackedBatch:
        """Return the batch with the role's rows padded to `length` tokens, padding labelled like any other token.

        Only for parity with implementations that average a loss over padding.

        Raises:
            ValueError: if a row is longer than `length`.
        """
        parts = [
            _pad(_slice_role(self, name), length, pad_id) if name == role else _slice_role(self, name)
            for name in self.spans
        ]
        return replace(concatenate(parts), sequence_roles=self.sequence_roles | {role})

    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Lay the rows out with right padding.

        Returns:
            input ids [B, L], attention mask [B, L], and int64 [T]: where each packed token stands in [B * L].
        """
        width = max(self.lengths)
        row = torch.repeat_interleave(
            torch.arange(len(self.lengths), device=self.input_ids.device),
            torch.tensor(self.lengths, device=self.input_ids.device),
            output_size=len(self.input_ids),
        )
        place = row * width + self.position_ids
        ids = self.input_ids.new_zeros(len(self.lengths) * width).index_copy(0, place, self.input_ids)
        attended = torch.ones_like(self.input_ids) if self.attended is None else self.attended.long()
        mask = torch.zeros_like(ids).index_copy(0, place, attended)
        return ids.view(-1, width), mask.view(-1, width), place


def pack(rows: Mapping[str, Sequence[TokenRow]], *, scales: Mapping[str, RoleScale] | None = None) -> PackedBatch:
    """Pack the rows of every role end to end, in the order given.

    Args:
        rows: role -> its tokenised rows; a role may be empty.
        scales: role -> factors of the optimiser step, see `RoleScale`.

    Raises:
        ValueError: if there is no row at all, or a row without tokens.
    """
    flat = [row for group in rows.values() for row in group]
    if not flat:
        raise ValueError("rows must hold at least one row, got none")
    lengths = tuple(len(row.input_ids) for row in flat)
    if not min(lengths):
        raise ValueError(f"every row must hold at least one token, got row {lengths.index(0)} without any")
    starts = np.cumsum((0, *lengths[:-1]))
    counts = [len(row.targets) for row in flat]
    spans, row_at, token_at = {}, 0, 0
    bounds = (0, *accumulate(lengths))
    for role, group in rows.items():
        n_rows, n_tokens = row_at + len(group), token_at + sum(len(row.targets) for row in group)
        inputs = slice(bounds[row_at], bounds[n_rows])
        spans[role] = RoleSpan(slice(row_at, n_rows), slice(token_at, n_tokens), inputs)
        row_at, token_at = n_rows, n_tokens
    index = np.concatenate([row.target_positions + start for row, start in zip(flat, starts, strict=True)])
    return PackedBatch(
        input_ids=int64_tensor(np.concatenate([row.input_ids for row in flat])),
        position_ids=int64_tensor(np.concatenate([np.arange(length) for length in lengths])),
        target_index=int64_tensor(index),
        targets=int64_tensor(np.concatenate([row.targets for row in flat])),
        target_row=int64_tensor(np.repeat(np.arange(len(flat)), counts)),
        lengths=lengths,
        spans=spans,
        scales=dict(scales or {}),
    )


def concatenate(parts: Sequence[PackedBatch]) -> PackedBatch:
    """Put batches with different roles end to end."""
    spans: dict[str, RoleSpan] = {}
    index, target_row, row_at, token_at, input_at = [], [], 0, 0, 0
    for part in parts:
        for role, span in part.spans.items():
            shifted = zip((span.rows, span.tokens, span.inputs), (row_at, token_at, input_at), strict=True)
            spans[role] = RoleSpan(*(slice(s.start + by, s.stop + by) for s, by in shifted))
        index.append(part.target_index + input_at)
        target_row.append(part.target_row + row_at)
        row_at, token_at, input_at = row_at + len(part), token_at + len(part.targets), input_at + len(part.input_ids)
    attended = None
    if any(part.attended is not None for part in parts):
        masks = [torch.ones_like(p.input_ids, dtype=torch.bool) if p.attended is None else p.attended for p in parts]
        attended = torch.cat(masks)
    return PackedBatch(
        input_ids=torch.cat([part.input_ids for part in parts]),
        position_ids=torch.cat([part.position_ids for part in parts]),
        target_index=torch.cat(index),
        targets=torch.cat([part.targets for part in parts]),
        target_row=torch.cat(target_row),
        lengths=tuple(length for part in parts for length in part.lengths),
        spans=spans,
        scales={role: scale for part in parts for role, scale in part.scales.items()},
        attended=attended,
        sequence_roles=frozenset().union(*(part.sequence_roles for part in parts)),
        retargeted=frozenset().union(*(part.retargeted for part in parts)),
        reference={role: values for part in parts for role, values in part.reference.items()},
    )


def int64_tensor(array: np.ndarray) -> Tensor:
    """Return the array as a tensor of int64, without a copy where it is one."""
    return torch.from_numpy(array.astype(np.int64, copy=False))


def _slice_role(batch: PackedBatch, role: str) -> PackedBatch:
    span = batch.spans[role]
    rows, tokens, inputs = span.rows, span.tokens, span.inputs
    local = (slice(0, s.stop - s.start) for s in (rows, tokens, inputs))
    return PackedBatch(
        input_ids=batch.input_ids[inputs],
        position_ids=batch.position_ids[inputs],
        target_index=batch.target_index[tokens] - inputs.start,
        targets=batch.targets[tokens],
        target_row=batch.target_row[tokens] - rows.start,
        lengths=batch.lengths[rows],
        spans={role: RoleSpan(*local)},
        scales={role: batch.scales[role]} if role in batch.scales else {},
        attended=None if batch.attended is None else batch.attended[inputs],
        sequence_roles=batch.sequence_roles & {role},
        retargeted=batch.retargeted & {role},
        reference={role: batch.reference[role]} if role in batch.reference else {},
    )


def _widen(part: PackedBatch) -> PackedBatch:
    """Label every token of a one-role batch that has a predecessor, and keep targets carried past a row's end."""
    targets = part.input_ids.roll(-1)  # [T], wrong at the last position of each row
    predicts = torch.ones_like(part.input_ids, dtype=torch.bool)
    if part.attended is not None:  # padding that was kept is no part of the sequence
        predicts = part.attended.roll(-1)
    last = part.cu_seq_lens[1:].long() - 1
    predicts[last] = False
    predicts[part.target_index] = True
    carried = torch.isin(part.target_index, last)
    targets[part.target_index[carried]] = part.targets[carried]
    return _with_targets(part, predicts, targets)


def _with_targets(part: PackedBatch, predicts: Tensor, targets: Tensor) -> PackedBatch:
    """Replace the targets of a one-role batch by those at the positions [T] where `predicts` holds."""
    index = predicts.nonzero().squeeze(1)
    row = torch.repeat_interleave(
        torch.arange(len(part), device=index.device), torch.tensor(part.lengths, device=index.device)
    )
    ((role, span),) = part.spans.items()
    return replace(
        part,
        target_index=index,
        targets=targets[index],
        target_row=row[index],
        spans={role: RoleSpan(span.rows, slice(0, len(index)), slice(0, len(part.input_ids)))},
        reference={},  # said of other targets
    )


def _pad(part: PackedBatch, length: int, pad_id: int) -> PackedBatch:
    if max(part.lengths) > length:
        raise ValueError(f"padded_length must be at least the longest row ({max(part.lengths)} tokens), got {length}")
    rows, device = len(part), part.input_ids.device
    ids = torch.full((rows, length), pad_id, device=device)
    attended = torch.zeros((rows, length), dtype=torch.bool, device=device)
    row = torch.repeat_interleave(torch.arange(rows, device=device), torch.tensor(part.lengths, device=device))
    ids[row, part.position_ids] = part.input_ids
    attended[row, part.position_ids] = True
    position = torch.arange(length, device=device).expand(rows, length)
    wide = replace(
        part,
        input_ids=ids.flatten(),
        position_ids=position.flatten(),
        lengths=(length,) * rows,
        attended=attended.flatten(),
        scales={role: RoleScale(s.token, s.row, s.row / (length - 1)) for role, s in part.scales.items()},
    )
    # A row of `length` tokens predicts the `length - 1` that follow its first.
    return _with_targets(wide, wide.position_ids < length - 1, wide.input_ids.roll(-1))
