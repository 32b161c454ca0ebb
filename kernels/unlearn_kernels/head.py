"""Logits formed from hidden states and an output head, tile by tile.

Logits are float32 (float64 for float64 inputs) whatever the inputs: bfloat16 logits would ruin a small KL. On CUDA,
16-bit operands go to the tensor cores with float32 output; elsewhere the slices are converted.

Shapes: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from unlearn_kernels.tiles import restore

_HAS_OUT_DTYPE = hasattr(torch.ops.aten.mm, "dtype_out")


def logit_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 where any input is, else float32."""
    return torch.float64 if any(x is not None and x.dtype == torch.float64 for x in tensors) else torch.float32


def product(a: Tensor, b: Tensor, out: Tensor, accumulate: bool = False, alpha: float = 1.0) -> None:
    """Write (or add) alpha * a @ b into `out` of another dtype than the operands', perhaps.

    Args:
        a: left operand, [I, J].
        b: right operand, [J, K], of the same dtype.
        out: [I, K].
        accumulate: add to what is there.
        alpha: factor.
    """
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, beta=int(accumulate), alpha=alpha, out=out)
    elif accumulate:
        out.add_(torch.mm(a, b, out_dtype=out.dtype), alpha=alpha)
    else:
        torch.mm(a, b, out_dtype=out.dtype, out=out)
        if alpha != 1.0:
            out.mul_(alpha)


@dataclass(frozen=True)
class Transform:
    """z = softcap(logit_scale * (h W^T + b)) / temperature.

    Attributes:
        softcap: softcap(z) = softcap * tanh(z / softcap); None for none.
        logit_scale: factor before the cap.
        temperature: divisor after it.
    """

    softcap: float | None = None
    logit_scale: float = 1.0
    temperature: float = 1.0

    @property
    def inner(self) -> float:
        """Factor of the raw logits before the tanh, or the only one."""
        return self.logit_scale / (self.temperature if self.softcap is None else self.softcap)

    @property
    def outer(self) -> float:
        """Factor after the tanh."""
        return 1.0 if self.softcap is None else self.softcap / self.temperature

    @property
    def linear(self) -> float:
        """Derivative dz / d(raw logit) where the tanh is not bent."""
        return self.logit_scale / self.temperature


class HeadLogits:
    """Source of tiles: softcap(logit_scale * (hidden @ weight.T + bias)) / temperature.

    Args:
        hidden: [M, D].
        weight: [V, D].
        bias: [V] or None.
        transform: soft cap, scale, temperature.
        index: rows of `hidden` that count, [N]; None for all.
        dtype: dtype of the logits.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        transform: Transform,
        index: Tensor | None,
        dtype: torch.dtype,
    ):
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.transform, self.index, self.dtype = transform, index, dtype
        self.operand_dtype = _operand_dtype(hidden, weight, dtype)
        self.rows_cached: tuple[slice, Tensor] | None = None

    def select(self, columns: slice) -> None:
        """Convert a slice of the head, where its dtype is not the operands'."""
        self.slice = self.weight[columns].to(self.operand_dtype)
        self.bias_slice = None if self.bias is None else self.bias[columns].to(self.dtype)

    def block(self, rows: slice) -> Tensor:
        """Hidden states of some tokens in the operands' dtype; the last block is remembered."""
        if self.rows_cached is None or self.rows_cached[0] != rows:
            block = self.hidden[rows] if self.index is None else self.hidden[self.index[rows]]
            self.rows_cached = (rows, block.to(self.operand_dtype))
        return self.rows_cached[1]

    def form(self, rows: slice, out: Tensor) -> None:
        """Write the logits of some tokens over the selected slice."""
        alpha = self.transform.inner
        product(self.block(rows), self.slice.t(), out, alpha=alpha)
        if self.bias_slice is not None:
            out.add_(self.bias_slice, alpha=alpha)
        if self.transform.softcap is not None:
            out.tanh_().mul_(self.transform.outer)

    @property
    def cap(self) -> float | None:
        """Factor after the tanh of the soft cap, None where there is no cap."""
        return None if self.transform.softcap is None else self.transform.outer

    def extra_buffers(self) -> int:
        """Tiles that this source takes beyond its caller's: the cap's slope, and the gradient in 16 bit."""
        return (self.transform.softcap is not None) + (self.operand_dtype != self.dtype)

    def column_bytes(self) -> int:
        """Bytes that converting one row of the head takes, and accumulating its gradient."""
        converted = 0 if self.operand_dtype == self.weight.dtype else self.operand_dtype.itemsize
        accumulated = 0 if self.dtype == self.weight.dtype else self.dtype.itemsize
        return self.weight.shape[1] * (converted + accumulated)


class HeadGradients:
    """Turns gradient tiles of the logits into gradients of hidden states, head and bias.

    The hidden states' gradient is summed in the dtype of the logits; each slice of the head's gradient is summed over
    the blocks of tokens before it is written, once, in its final dtype.

    Args:
        source: the logits' source.
        rows: the blocks of tokens, which `add` is called with in order for each slice.
        needs: whether hidden states, head and bias need theirs.
    """

    def __init__(self, source: HeadLogits, rows: list[slice], needs: tuple[bool, bool, bool]):
        self.source, self.rows = source, rows
        hidden, weight, bias, dtype = source.hidden, source.weight, source.bias, source.dtype
        self.hidden = hidden.new_zeros((rows[-1].stop, hidden.shape[1]), dtype=dtype) if needs[0] else None
        self.weight = hidden.new_empty(weight.shape, dtype=weight.dtype) if needs[1] else None
        self.bias = hidden.new_zeros(len(weight), dtype=dtype) if needs[2] and bias is not None else None
        one_block = len(rows) == 1 and weight.dtype == source.operand_dtype
        self.direct = weight.dtype == dtype or one_block

    def add(self, columns: slice, rows: slice, tile: Tensor) -> None:
        """Add the contribution of one tile."""
        if self.bias is not None:
            self.bias[columns] += tile.sum(0)
        operand = tile.to(self.source.operand_dtype)
        if self.hidden is not None:
            product(operand, self.source.slice, self.hidden[rows], accumulate=True)
        if self.weight is None:
            return
        first, last = rows == self.rows[0], rows == self.rows[-1]
        if self.direct:
            target = self.weight[columns]
        elif first:
            target = self.partial = tile.new_empty((tile.shape[1], self.weight.shape[1]))
        else:
            target = self.partial
        product(operand.t(), self.source.block(rows), target, accumulate=not first)
        if last and not self.direct:
            self.weight[columns] = target

    def results(self, index: Tensor | None, group: dist.ProcessGroup | None) -> tuple[Tensor | None, ...]:
        """Gradients of hidden states (all tokens), head and bias, in the inputs' dtypes."""
        hidden, bias = self.hidden, self.bias
        if hidden is not None:
            if group is not None:
                dist.all_reduce(hidden, group=group)
            hidden = restore(hidden.to(self.source.hidden.dtype), index, len(self.source.hidden))
        if bias is not None and self.source.bias is not None:
            bias = bias.to(self.source.bias.dtype)
        return hidden, self.weight, bias


def _operand_dtype(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> torch.dtype:
    if hidden.device.type != "cuda" or not _HAS_OUT_DTYPE:
        return dtype
    mixed = hidden.dtype == torch.bfloat16 and weight.dtype in (torch.bfloat16, torch.float32)
    return torch.bfloat16 if mixed else dtype  # float16 would flush small gradients to zero
