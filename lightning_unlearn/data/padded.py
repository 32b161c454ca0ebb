"""Padded batches, as existing projects have them, turned into packed ones with the same losses.

`labels` follow the Hugging Face convention: aligned with `input_ids` (not shifted), -100 where ignored. A label may
stand on a padding position (TOFU labels one eos there): it is predicted from the token before it and carried as a
target.

Shapes: B rows, L padded length, N labelled tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lightning_unlearn.data.packing import IGNORE_INDEX, PackedBatch, RoleScale, RoleSpan, TokenRow, concatenate

PaddedRole = Mapping[str, Tensor]


def from_padded(
    batch: Mapping[str, PaddedRole],
    *,
    scales: Mapping[str, RoleScale] | None = None,
    keep_padding: tuple[str, ...] = (),
) -> PackedBatch:
    """Pack a dict of padded roles.

    Args:
        batch: role -> {"input_ids": int64 [B, L], "labels": int64 [B, L], "attention_mask": [B, L] (default: all
            ones)}.
        scales: role -> factors of the optimiser step, see `RoleScale` (default: means over this batch).
        keep_padding: roles whose padding stays, every position of them labelled (parity with code that averages over
            padding).

    Raises:
        ValueError: for a missing key, a wrong shape, a label that is no token, a row of padding only, or labels deep
            inside the padding of left-padded rows.
    """
    if not batch:
        raise ValueError("batch must hold at least one role, got an empty dict")
    parts = [_role(role, tensors, role in keep_padding) for role, tensors in batch.items()]
    return replace(concatenate(parts), scales=dict(scales or {}))


def rows_from_labels(
    input_ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    attention_mask: Sequence[Sequence[int]] | None = None,
) -> list[TokenRow]:
    """Turn tokens and labels of a dataset into rows that `UnlearningLoader` takes, without their padding.

    >>> rows_from_labels([[5, 6, 7, 0]], [[-100, 6, 7, -100]], [[1, 1, 1, 0]])[0].targets
    array([6, 7])

    Args:
        input_ids: the tokens of each row: lists, arrays or a tensor [B, L].
        labels: as long, aligned with the tokens (not shifted), -100 where ignored; a label on the position right after
            a row's last token is predicted but never read.
        attention_mask: as long, 0 on padding (default: no padding).

    Raises:
        ValueError: for rows of different lengths, a label that is no token, a row without tokens, masked tokens inside
            a row, or a label deeper inside the padding.
    """
    masks = [[1] * len(row) for row in input_ids] if attention_mask is None else attention_mask
    if not len(input_ids) == len(labels) == len(masks):
        counts = f"{len(input_ids)}, {len(labels)} and {len(masks)}"
        raise ValueError(f"input_ids, labels and attention_mask must hold as many rows, got {counts}")
    return [_row(i, *map(np.asarray, three)) for i, three in enumerate(zip(input_ids, labels, masks, strict=True))]


def _row(number: int, ids: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> TokenRow:
    if ids.ndim != 1 or not ids.shape == labels.shape == mask.shape:
        shapes = f"{ids.shape}, {labels.shape} and {mask.shape}"
        raise ValueError(f"row {number}: input_ids, labels and attention_mask must be of one length, got {shapes}")
    (kept,), (labelled,) = np.nonzero(mask), np.nonzero(labels != IGNORE_INDEX)
    if not len(kept) or kept[-1] - kept[0] != len(kept) - 1:
        raise ValueError(f"row {number}: attention_mask must keep tokens without a gap, got {mask.tolist()}")
    if (labels[labelled] < 0).any():
        raise ValueError(f"row {number}: labels must be token ids or {IGNORE_INDEX}, got {labels[labelled].min()}")
    labelled = labelled[labelled > kept[0]]  # what precedes a row's first token predicts nothing
    if len(labelled) and labelled[-1] > kept[-1] + 1:
        raise ValueError(
            f"row {number}: labels must lie at most one position after the last token, {kept[-1]}, got {labelled[-1]}"
        )
    return TokenRow(ids[kept].astype(np.int64), labelled - 1 - kept[0], labels[labelled].astype(np.int64))


def _role(role: str, tensors: PaddedRole, keep_padding: bool) -> PackedBatch:
    ids, labels, mask = _checked(role, tensors)
    length = ids.shape[1]
    predicted = torch.zeros_like(mask)
    predicted[:, :-1] = labels[:, 1:] != IGNORE_INDEX  # [B, L]: positions whose successor is labelled
    begun = mask.cumsum(1) > 0
    predicted &= begun  # what precedes a row's first token predicts nothing
    holes = begun & ~mask & (mask.flip(1).cumsum(1).flip(1) > 0)  # masked tokens inside a row
    kept = mask
    if keep_padding or bool((predicted & ~mask | holes).any()):
        if not bool(mask[:, 0].all()):
            raise ValueError(
                f'batch["{role}"]: labels inside padding and masked tokens inside a row need right padding, got '
                "left-padded rows"
            )
        kept = torch.ones_like(mask)
    if keep_padding:
        predicted = torch.arange(length, device=ids.device).expand_as(ids) < length - 1
    successors = (ids if keep_padding else labels).roll(-1, 1)
    lengths = tuple(kept.sum(1).tolist())
    place = (kept.flatten().long().cumsum(0) - 1).view_as(ids)  # [B, L]: index into [T] of each kept token
    rows = torch.arange(len(ids), device=ids.device).unsqueeze(1).expand_as(ids)
    index = place[predicted]
    span = RoleSpan(slice(0, len(ids)), slice(0, len(index)), slice(0, sum(lengths)))
    return PackedBatch(
        input_ids=ids[kept],
        position_ids=(kept.long().cumsum(1) - 1)[kept],
        target_index=index,
        targets=successors[predicted],
        target_row=rows[predicted],
        lengths=lengths,
        spans={role: span},
        attended=mask[kept] if kept is not mask else None,
        sequence_roles=frozenset({role}) if keep_padding else frozenset(),
    )


def _checked(role: str, tensors: PaddedRole) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(tensors, Mapping) or not {"input_ids", "labels"} <= set(tensors):
        got = sorted(tensors) if isinstance(tensors, Mapping) else type(tensors).__name__
        raise ValueError(f'batch["{role}"] must hold "input_ids" and "labels", got {got}')
    ids, labels = tensors["input_ids"], tensors["labels"]
    mask = tensors.get("attention_mask")
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    if ids.ndim != 2 or labels.shape != ids.shape or mask.shape != ids.shape:
        shapes = {key: tuple(value.shape) for key, value in tensors.items() if isinstance(value, Tensor)}
        raise ValueError(
            f'batch["{role}"]: input_ids, labels and attention_mask must share one shape [B, L], got {shapes}'
        )
    wrong = labels[(labels < 0) & (labels != IGNORE_INDEX)]
    if len(wrong):
        raise ValueError(f'batch["{role}"]: labels must be token ids or {IGNORE_INDEX}, got {int(wrong[0])}')
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f'batch["{role}"]: every row must hold at least one token, got only padding in rows {empty}')
    return ids, labels, mask
