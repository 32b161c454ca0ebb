"""Logits formed from hidden states and an output head, tile by tile, and what their gradient becomes.

Logits are float32 (float64 for float64 inputs) whatever the inputs: bfloat16 logits would ruin a small KL. On CUDA,
16-bit operands go to the tensor cores with float32 output; elsewhere the slices are converted.

Shapes: M tokens of which N count, D hidden size, V vocabulary, r rank of an adapter; a tile is [rows, columns].
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


class Factor:
    """One product hidden @ weight.T that raw logits are a sum of: the head's, or an adapter's.

    Args:
        hidden: [M, D] (an adapter's: [M, r]).
        weight: [V, D] ([V, r]).
        index: rows of `hidden` that count, [N]; None for all.
        dtype: dtype of the logits.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, index: Tensor | None, dtype: torch.dtype):
        self.hidden, self.weight, self.index, self.dtype = hidden, weight, index, dtype
        self.operand_dtype = _operand_dtype(hidden, weight, dtype)
        self.rows_cached: tuple[slice, Tensor] | None = None
        self.converted: Tensor | None = None

    def select(self, columns: slice) -> None:
        """Say which slice of the weight the next products are with."""
        self.columns, self.converted = columns, None

    @property
    def piece(self) -> Tensor:
        """The slice in the operands' dtype, converted where it is first used."""
        if self.converted is None:
            self.converted = self.weight[self.columns].to(self.operand_dtype)
        return self.converted

    def block(self, rows: slice) -> Tensor:
        """Hidden states of some tokens in the operands' dtype; the last block is remembered."""
        if self.rows_cached is None or self.rows_cached[0] != rows:
            block = self.hidden[rows] if self.index is None else self.hidden[self.index[rows]]
            self.rows_cached = (rows, block.to(self.operand_dtype))
        return self.rows_cached[1]

    def column_bytes(self) -> int:
        """Bytes that converting one row of the weight takes, and summing its gradient."""
        converted = 0 if self.operand_dtype == self.weight.dtype else self.operand_dtype.itemsize
        summed = 0 if self.dtype == self.weight.dtype else self.dtype.itemsize
        return self.weight.shape[1] * (converted + summed)

    def row_bytes(self) -> int:
        """Bytes that summing the gradient of one token's hidden state takes beyond the gradient."""
        mixed = self.operand_dtype != self.dtype  # a slice's contribution is formed apart, then added
        return self.hidden.shape[1] * self.dtype.itemsize * ((self.hidden.dtype != self.dtype) + mixed)


class HeadLogits:
    """Source of tiles: softcap(logit_scale * (hidden @ weight.T + adapter + bias)) / temperature.

    Args:
        head: the head's product.
        adapter: a low-rank product that is added, or None.
        bias: [V] or None.
        transform: soft cap, scale, temperature.
    """

    def __init__(self, head: Factor, adapter: Factor | None, bias: Tensor | None, transform: Transform):
        self.head, self.adapter, self.bias, self.transform = head, adapter, bias, transform
        self.both_cached: tuple[slice, Tensor] | None = None

    @property
    def factors(self) -> list[Factor]:
        """The products that the raw logits are the sum of."""
        return [self.head] if self.adapter is None else [self.head, self.adapter]

    def select(self, columns: slice) -> None:
        """Make ready the slice of the vocabulary that the next tiles are of."""
        for factor in self.factors:
            factor.select(columns)
        self.bias_slice = None if self.bias is None else self.bias[columns].to(self.head.dtype)

    def form(self, rows: slice, out: Tensor) -> None:
        """Write the logits of some tokens over the selected slice."""
        product(self.head.block(rows), self.head.piece.t(), out, alpha=self.transform.inner)
        self._finish(rows, out)

    def form_both(self, reference: HeadLogits, rows: slice, out: Tensor) -> None:
        """Write the model's and the reference's logits with one product of the head that they share.

        Args:
            reference: the other logits, of the same head.
            rows: tokens.
            out: [2, rows, columns], contiguous.
        """
        if self.both_cached is None or self.both_cached[0] != rows:
            self.both_cached = (rows, torch.cat([self.head.block(rows), reference.head.block(rows)]))
        product(self.both_cached[1], self.head.piece.t(), out.flatten(0, 1), alpha=self.transform.inner)
        self._finish(rows, out[0])
        reference._finish(rows, out[1])

    def _finish(self, rows: slice, out: Tensor) -> None:
        if self.adapter is not None:
            factor = self.adapter
            product(factor.block(rows), factor.piece.t(), out, accumulate=True, alpha=self.transform.inner)
        if self.bias_slice is not None:
            out.add_(self.bias_slice, alpha=self.transform.inner)
        if self.transform.softcap is not None:
            out.tanh_().mul_(self.transform.outer)

    @property
    def cap(self) -> float | None:
        """Factor after the tanh of the soft cap, None where there is no cap."""
        return None if self.transform.softcap is None else self.transform.outer

    @property
    def gradient_dtype(self) -> torch.dtype:
        """Dtype in which the gradient of a tile goes into the products."""
        first, *rest = {factor.operand_dtype for factor in self.factors}
        return self.head.dtype if rest else first

    def column_bytes(self) -> int:
        """Bytes that one column of a slice takes beside the tiles."""
        return sum(factor.column_bytes() for factor in self.factors)


class FactorGradients:
    """Gradients of one product's hidden states and weight, from gradient tiles of the logits.

    The hidden states' gradient is summed in the dtype of the logits; each slice of the weight's gradient is summed over
    the blocks of tokens before it is written, once, in its final dtype.

    Args:
        factor: the product.
        rows: the blocks of tokens, which `add` is called with in order for each slice.
        hidden: where the hidden states' gradient is added, [N, D] in the dtype of the logits; None to leave it out.
        needs_weight: whether to form the weight's.
    """

    def __init__(self, factor: Factor, rows: list[slice], hidden: Tensor | None, needs_weight: bool):
        self.factor, self.rows, self.hidden = factor, rows, hidden
        self.weight = torch.empty_like(factor.weight, memory_format=torch.contiguous_format) if needs_weight else None
        one_block = len(rows) == 1 and factor.weight.dtype == factor.operand_dtype
        self.direct = factor.weight.dtype == factor.dtype or one_block

    def add(self, columns: slice, rows: slice, tile: Tensor) -> None:
        """Add the contribution of one tile."""
        operand = tile.to(self.factor.operand_dtype)
        if self.hidden is not None:
            product(operand, self.factor.piece, self.hidden[rows], accumulate=True)
        if self.weight is None:
            return
        first, last = rows == self.rows[0], rows == self.rows[-1]
        if self.direct:
            target = self.weight[columns]
        elif first:
            shape = (columns.stop - columns.start, self.weight.shape[1])
            target = self.partial = tile.new_empty(shape, dtype=self.factor.dtype)
        else:
            target = self.partial
        product(operand.t(), self.factor.block(rows), target, accumulate=not first)
        if last and not self.direct:
            self.weight[columns] = target

    def results(self, group: dist.ProcessGroup | None) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the hidden states (all M tokens) and of the weight, in the inputs' dtypes."""
        hidden = self.hidden
        if hidden is not None:
            if group is not None:
                dist.all_reduce(hidden, group=group)
            hidden = restore(hidden.to(self.factor.hidden.dtype), self.factor.index, len(self.factor.hidden))
        return hidden, self.weight


class HeadGradients:
    """Turns gradient tiles of the logits into gradients of all that formed them.

    Args:
        source: the logits' source.
        rows: the blocks of tokens, which `add` is called with in order for each slice.
        needs: whether hidden states, weight, bias, the adapter's hidden states and its weight need theirs.
    """

    def __init__(self, source: HeadLogits, rows: list[slice], needs: tuple[bool, ...]):
        self.bias_dtype = None if source.bias is None else source.bias.dtype
        dtype, tokens = source.head.dtype, rows[-1].stop
        self.bias = source.head.weight.new_zeros(len(source.head.weight), dtype=dtype) if needs[2] else None
        self.factors = []
        for factor, (needs_hidden, needs_weight) in zip(source.factors, (needs[:2], needs[3:]), strict=False):
            hidden = factor.hidden.new_zeros((tokens, factor.hidden.shape[1]), dtype=dtype) if needs_hidden else None
            self.factors.append(FactorGradients(factor, rows, hidden, needs_weight))

    def add(self, columns: slice, rows: slice, tile: Tensor) -> None:
        """Add the contribution of one tile."""
        if self.bias is not None:
            self.bias[columns] += tile.sum(0, dtype=self.bias.dtype)
        for factor in self.factors:
            factor.add(columns, rows, tile)

    def results(self, group: dist.ProcessGroup | None) -> tuple[Tensor | None, ...]:
        """Gradients in the order of `needs`."""
        bias = None if self.bias is None else self.bias.to(self.bias_dtype)
        pairs = [factor.results(group) for factor in self.factors] + [(None, None)]
        return *pairs[0], bias, *pairs[1]


def _operand_dtype(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> torch.dtype:
    if hidden.device.type != "cuda" or not _HAS_OUT_DTYPE:
        return dtype
    mixed = hidden.dtype == torch.bfloat16 and weight.dtype in (torch.bfloat16, torch.float32)
    return torch.bfloat16 if mixed else dtype  # float16 would flush small gradients to zero
