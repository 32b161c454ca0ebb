"""Which backend serves a call: Triton kernels where they can run, PyTorch everywhere.

Triton is imported when it is first needed, never with the package.
"""

from __future__ import annotations

import importlib.util

import torch

from unlearn_kernels import torch_rows
from unlearn_kernels.passes import RowKernels

HAS_TRITON = importlib.util.find_spec("triton") is not None


def row_kernels(backend: str, dtype: torch.dtype, device: torch.device) -> RowKernels:
    """The backend's operations on a tile of logits.

    Args:
        backend: "torch"; "triton", which may also be Triton's interpreter (TRITON_INTERPRET=1); or "auto" for Triton's
            compiled kernels where they can run and PyTorch elsewhere.
        dtype: what sums are taken in: Triton knows float32 alone.
        device: where the tensors are.

    Raises:
        ValueError: Triton was asked for and cannot run here.
    """
    on_gpu = device.type == "cuda"  # of NVIDIA or AMD
    if backend == "torch" or (backend == "auto" and not (on_gpu and HAS_TRITON and dtype == torch.float32)):
        return torch_rows
    if not HAS_TRITON:
        raise ValueError("backend: expected 'auto' or 'torch' where triton is not installed, got 'triton'")
    if dtype != torch.float32:
        raise ValueError(f"backend: expected 'auto' or 'torch' for inputs of {dtype}, got 'triton'")
    from unlearn_kernels import rows, triton_rows

    if backend == "auto":
        return torch_rows if rows.INTERPRETED else triton_rows
    if not on_gpu and not rows.INTERPRETED:
        raise ValueError(
            f"backend: expected 'auto' or 'torch' for tensors on {device} (Triton needs a GPU, or TRITON_INTERPRET=1 "
            "before it is imported), got 'triton'"
        )
    return triton_rows
