"""Checks of public arguments, made once, at the public functions."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_matrix(
    name: str, x: Tensor, shape: tuple[int | None, int | None], device: torch.device | None = None
) -> None:
    """Require a floating-point matrix of a shape (None: any size) on a device.

    Raises:
        ValueError: it is not.
    """
    sizes = tuple("any" if size is None else size for size in shape)
    fits = isinstance(x, Tensor) and x.dim() == 2 and all(n in (None, m) for n, m in zip(shape, x.shape, strict=True))
    if not fits:
        raise ValueError(f"{name}: expected a tensor of shape {sizes}, got {_describe(x)}")
    if x.dtype not in FLOATS:
        raise ValueError(f"{name}: expected a floating-point tensor, got {_describe(x)}")
    check_device(name, x, device)


def check_vector(name: str, x: Tensor | None, size: int, device: torch.device) -> None:
    """Require a floating-point vector, or None.

    Raises:
        ValueError: it is neither.
    """
    if x is None:
        return
    if not isinstance(x, Tensor) or x.shape != (size,) or x.dtype not in FLOATS:
        raise ValueError(f"{name}: expected a floating-point tensor of shape ({size},), got {_describe(x)}")
    check_device(name, x, device)


def check_device(name: str, x: Tensor, device: torch.device | None) -> None:
    """Require a tensor to be where the others are.

    Raises:
        ValueError: it is elsewhere.
    """
    if device is not None and x.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got {_describe(x)}")


def check_labels(labels: Tensor, tokens: int, device: torch.device) -> None:
    """Require integer labels, one a token.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(labels, Tensor) or labels.shape != (tokens,) or labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels: expected an int64 tensor of shape ({tokens},), got {_describe(labels)}")
    check_device("labels", labels, device)


def check_label_range(labels: Tensor, vocabulary: int | Tensor) -> None:
    """Require labels within the vocabulary. Checked on a CPU alone (elsewhere it would stall), and not while compiling.

    Raises:
        ValueError: one is not.
    """
    if labels.device.type != "cpu" or not labels.numel() or torch.compiler.is_compiling():
        return
    low, high = (int(x) for x in labels.aminmax())
    if low < 0 or high >= int(vocabulary):
        wrong = low if low < 0 else high
        raise ValueError(f"labels: expected ignore_index or a token in [0, {int(vocabulary)}), got {wrong}")


def check_options(*, softcap: float | None, temperature: float, workspace_bytes: int | None, backend: str) -> None:
    """Require options in their ranges.

    Raises:
        ValueError: one is not.
    """
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap: expected a positive number or None, got {softcap}")
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
    if workspace_bytes is not None and not workspace_bytes > 0:
        raise ValueError(f"workspace_bytes: expected a positive number of bytes or None, got {workspace_bytes}")
    if backend not in ("auto", "triton", "torch"):
        raise ValueError(f"backend: expected 'auto', 'triton' or 'torch', got {backend!r}")


def labelled_rows(labels: Tensor, ignore_index: int | None) -> Tensor | None:
    """Indices of the tokens that are not ignored, or None where all are kept; the one synchronisation of a call.

    Args:
        labels: [N].
        ignore_index: the label of ignored tokens; None promises that there are none, and nothing is read back.
    """
    if ignore_index is None:
        return None
    index = (labels != ignore_index).nonzero().squeeze(1)
    return None if len(index) == len(labels) else index


def _describe(x: Tensor | None) -> str:
    if isinstance(x, Tensor):
        return f"shape {tuple(x.shape)}, {x.dtype}, on {x.device}"
    return repr(x)
