"""Triton kernels over rows of logits: the sums of `merge.py` forward, the gradient formula of `fields.py` backward.

Each logit is read once, in its own dtype, and summed in float32. What was not asked for is compiled out. A program has
one row forward and a block of one backward. Nothing here knows of hidden states or fields, or synchronises.

Shapes: N tokens, M rows of logits of which N count, C columns of a slice of the vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.4028234663852886e38)  # of float32: the maximum over no column at all
TINY = tl.constexpr(1.1754943508222875e-38)

# (columns up to, columns a program handles at once, warps): 8 logits a thread keep 30 to 40 registers for the fields of
# one model, so that most warps of a multiprocessor are in flight; with 16, kernels of many fields spill on sm_100
BLOCKS = ((1024, 1024, 4), (None, 2048, 8))


@triton.jit
def _exp(x):
    return tl.exp2(x * LOG2E)


@triton.jit
def _expm1(x):
    """Return e^x - 1, as a series where the subtraction would lose digits (the interpreter has no libdevice)."""
    series = 1 + x * (1 / 5) * (1 + x * (1 / 6) * (1 + x * (1 / 7) * (1 + x * (1 / 8))))
    series = 1 + x * (1 / 2) * (1 + x * (1 / 3) * (1 + x * (1 / 4) * series))
    return tl.where(tl.abs(x) < 0.5, x * series, _exp(x) - 1)


@triton.jit
def _column(pointer, row, start, columns):
    """Return a token's column within the slice, or -1 where it lies elsewhere."""
    local = tl.load(pointer + row) - start
    return tl.where((local >= 0) & (local < columns), local, -1).to(tl.int32)


@triton.jit
def _centre(x, counted, maximum):
    """Return the new running maximum, by what it moved, the centred logits d and the weights e^d."""
    new = tl.maximum(maximum, tl.max(tl.where(counted, x, LOWEST), 0))
    d = tl.where(counted, x - new, 0.0)
    return new, tl.maximum(maximum - new, -1e4), d, tl.where(counted, _exp(d), 0.0)


@triton.jit
def _moments(total, first, second, shift, d, e, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """Add a block to sum e, sum e d and the second central moment, which were taken around the old maximum."""
    scale = _exp(shift)
    total *= scale
    block_total = tl.sum(e, 0)
    if FIRST:
        first = first * scale + total * shift
        block_first = tl.sum(e * d, 0)
        if SECOND:
            mean = block_first / tl.maximum(block_total, TINY)
            distance = first / tl.maximum(total, TINY) - mean
            between = total * block_total / tl.maximum(total + block_total, TINY) * distance * distance
            second = second * scale + tl.sum(e * (d - mean) * (d - mean), 0) + between
        first += block_first
    return total + block_total, first, second


@triton.jit
def _gap(gap, total, shift, moved, e, difference):
    """Add a block to sum e (z - r - centre), the centre having moved, where z - r far from 0 loses no digits."""
    return (gap + total * moved) * _exp(shift) + tl.sum(e * difference, 0)


@triton.jit
def _store(sums, slot: tl.constexpr, tokens, value):
    tl.store(sums + slot * tokens.to(tl.int64), value)


@triton.jit(do_not_specialize=["tokens", "start"])  # else one compilation for N = 1, one for multiples of 16
def _sums_kernel(
    sums, indices, logits, reference, labels, rows, tokens, columns, start, stride, reference_stride,
    LOGIT_SUM: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, GAP: tl.constexpr, INDEX: tl.constexpr,
    REFERENCE_FIRST: tl.constexpr, REFERENCE_GAP: tl.constexpr, EXCESS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Reads N C logits (2 N C with a reference) and N labels, writes 7 sums a token (13)."""
    token = tl.program_id(0).to(tl.int64)
    row = token if rows is None else tl.load(rows + token)
    label = _column(labels, token, start, columns)
    logits += row * stride
    if reference is not None:
        reference += row * reference_stride
    maximum, r_maximum = tl.full((), LOWEST, tl.float32), tl.full((), LOWEST, tl.float32)
    total, first, second, logit_sum, gap = 0.0, 0.0, 0.0, 0.0, 0.0
    r_total, r_first, r_gap, excess = 0.0, 0.0, 0.0, 0.0
    index = 0
    for offset in range(0, columns, BLOCK):
        column = offset + tl.arange(0, BLOCK)
        inside = column < columns
        counted = inside & (column != label)
        z = tl.load(logits + column, mask=inside, other=0.0).to(tl.float32)
        new, shift, d, e = _centre(z, counted, maximum)
        if LOGIT_SUM:
            logit_sum += tl.sum(tl.where(counted, z, 0.0), 0)
        if INDEX:
            here = tl.min(tl.where(counted & (z == new), column, columns), 0)
            index = tl.where((new > maximum) & (here < columns), here, index)
        if reference is not None:
            r = tl.load(reference + column, mask=inside, other=0.0).to(tl.float32)
            r_new, r_shift, r_d, r_e = _centre(r, counted, r_maximum)
            centre = new - r_new
            moved = (maximum - r_maximum) - centre
            if GAP:
                gap = _gap(gap, total, shift, moved, e, (z - r) - centre)
            if REFERENCE_GAP:
                r_gap = _gap(r_gap, r_total, r_shift, moved, r_e, (z - r) - centre)
            if EXCESS:
                excess = excess * _exp(r_shift) + tl.sum(r_e * _expm1(z - r), 0)
            r_total, r_first, _ = _moments(r_total, r_first, 0.0, r_shift, r_d, r_e, REFERENCE_FIRST, False)
            r_maximum = r_new
        total, first, second = _moments(total, first, second, shift, d, e, FIRST, SECOND)
        maximum = new
    sums += token
    _store(sums, 0, tokens, tl.load(logits + label, mask=label >= 0, other=-float("inf")).to(tl.float32))
    _store(sums, 1, tokens, maximum)
    _store(sums, 2, tokens, total)
    _store(sums, 3, tokens, logit_sum)
    _store(sums, 4, tokens, first)
    _store(sums, 5, tokens, second)
    _store(sums, 6, tokens, gap + total * (maximum - r_maximum) if GAP else gap)
    if INDEX:
        tl.store(indices + token, start + index)
    if reference is not None:
        _store(sums, 7, tokens, tl.load(reference + label, mask=label >= 0, other=-float("inf")).to(tl.float32))
        _store(sums, 8, tokens, r_maximum)
        _store(sums, 9, tokens, r_total)
        _store(sums, 10, tokens, r_first)
        _store(sums, 11, tokens, r_gap + r_total * (maximum - r_maximum) if REFERENCE_GAP else r_gap)
        _store(sums, 12, tokens, excess)


@torch.library.custom_op("unlearn_kernels::row_sums", mutates_args=())
def row_sums(
    logits: Tensor,
    reference: Tensor | None,
    labels: Tensor,
    rows: Tensor | None,
    start: int,
    logit_sum: bool,
    first: bool,
    second: bool,
    gap: bool,
    index: bool,
    reference_first: bool,
    reference_gap: bool,
    excess: bool,
) -> tuple[Tensor, Tensor]:
    """Reduce rows of logits, the label's column left out, to the sums of a `Partial`.

    Args:
        logits: [M, C], of unit stride along C.
        reference: the frozen model's, [M, C], or None.
        labels: column of each token's label counted as `start` is, int64 [N]; it may lie outside the slice.
        rows: the token's row, int64 [N]; None where they are all rows in order.
        start: column that the slice starts with, which `index` is counted with.
        logit_sum: whether to take this sum, as in `Wants`; alike the rest.
        first: of the model.
        second: of the model, needs `first`.
        gap: of the model, needs a reference.
        index: of the model.
        reference_first: of the reference.
        reference_gap: of the reference.
        excess: of the reference.

    Returns:
        [7, N] float32: label's logit (minus infinity outside the slice), maximum, total, logit_sum, first, second, gap;
        with a reference 6 more rows: label's logit, maximum, total, first, gap, excess. What was not wanted is 0. And
        `index`, int64 [N], empty where not wanted.
    """
    sums, indices = _new_sums(logits, reference, labels, index)
    columns, reference_stride = logits.shape[1], 0 if reference is None else reference.stride(0)
    labels, rows = _dense(labels, rows)
    if len(labels):
        with torch.cuda.device_of(logits):  # a kernel is launched on the current device; nothing happens on a CPU
            _sums_kernel[(len(labels),)](
                sums, indices, logits, reference, labels, rows, len(labels), columns, start, logits.stride(0),
                reference_stride, logit_sum, first, second, gap, index, reference_first, reference_gap, excess,
                **blocks(columns),
            )  # fmt: skip
    return sums, indices


@row_sums.register_fake
def _(
    logits, reference, labels, rows, start, logit_sum, first, second, gap, index, reference_first, reference_gap, excess
):
    return _new_sums(logits, reference, labels, index)


def _new_sums(logits: Tensor, reference: Tensor | None, labels: Tensor, index: bool) -> tuple[Tensor, Tensor]:
    sums = logits.new_empty((7 if reference is None else 13, len(labels)), dtype=torch.float32)
    return sums, torch.empty_like(labels if index else labels[:0])


def _dense(*vectors: Tensor | None) -> list[Tensor | None]:
    """Vectors of stride 1, as the kernels read them; the upstream gradient of a sum has stride 0."""
    return [None if x is None else x.contiguous() for x in vectors]


def blocks(columns: int) -> dict[str, int | bool]:
    """Launch options for a slice of so many columns, from the table above."""
    block, warps = next((block, warps) for limit, block, warps in BLOCKS if limit is None or columns <= limit)
    return {"BLOCK": block, "num_warps": warps, "enable_fp_fusion": True}


@triton.jit(do_not_specialize=["start"])
def _gradient_kernel(
    out, logits, reference, labels, rows,
    maximum, label_gradient, a, b, c, v, k, gap, p_scale, q_scale, reference_maximum,
    hot, hot_value, second_hot, second_hot_value,
    columns, start, out_stride, stride, reference_stride, cap, BLOCK: tl.constexpr,
):  # fmt: skip
    """Reads N C logits (2 N C with a reference) and up to 16 numbers a token, writes N C gradients."""
    token = tl.program_id(0).to(tl.int64)
    row = token if rows is None else tl.load(rows + token)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    z = tl.load(logits + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    d = z - tl.load(maximum + token)
    e = _exp(d)
    gradient = tl.zeros((BLOCK,), tl.float32)
    if a is not None:
        gradient += tl.load(a + token)
    if b is not None:
        gradient += tl.load(b + token) * d
    if reference is not None:
        r = tl.load(reference + row * reference_stride + column, mask=inside, other=0.0).to(tl.float32)
        r_d = r - tl.load(reference_maximum + token)
        delta = (z - r) - tl.load(gap + token)  # log p - log q
        if v is not None:
            gradient += tl.load(v + token) * delta
    gradient *= e
    if k is not None:  # p - q is p times -expm1(-delta) where p is larger, q times expm1(delta) where q is
        larger = tl.where(delta > 0, -tl.load(p_scale + token) * e, tl.load(q_scale + token) * _exp(r_d))
        gradient += tl.load(k + token) * (larger * _expm1(-tl.abs(delta)))
    if c is not None:
        gradient += tl.load(c + token)
    gradient = tl.where(column == _column(labels, token, start, columns), tl.load(label_gradient + token), gradient)
    if hot is not None:
        gradient += tl.where(column == _column(hot, token, start, columns), tl.load(hot_value + token), 0.0)
    if second_hot is not None:
        here = column == _column(second_hot, token, start, columns)
        gradient += tl.where(here, tl.load(second_hot_value + token), 0.0)
    if cap is not None:
        gradient *= 1 - (z / cap) * (z / cap)
    tl.store(out + row * out_stride + column, gradient.to(out.dtype.element_ty), mask=inside)


@torch.library.custom_op("unlearn_kernels::row_gradient", mutates_args=("out",))
def row_gradient(
    out: Tensor,
    logits: Tensor | None,
    reference: Tensor | None,
    labels: Tensor,
    rows: Tensor | None,
    start: int,
    cap: float | None,
    maximum: Tensor,
    label_gradient: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    v: Tensor | None,
    k: Tensor | None,
    gap: Tensor | None,
    p_scale: Tensor | None,
    q_scale: Tensor | None,
    reference_maximum: Tensor | None,
    hot: Tensor | None,
    hot_value: Tensor | None,
    second_hot: Tensor | None,
    second_hot_value: Tensor | None,
) -> None:
    """Write e^d (a + b d + v delta) + k (p - q) + c and what belongs to single columns over rows of logits.

    Args:
        out: where the gradient goes, [M, C]; rows that are no token's are left alone.
        logits: [M, C]; None where `out` holds them.
        reference: the frozen model's, [M, C]; None where neither `v` nor `k` is there.
        labels: column of each token's label, int64 [N]; alike `hot` and `second_hot`.
        rows: the token's row, int64 [N]; None where they are all rows in order.
        start: column that the slice starts with.
        cap: factor after the tanh of the soft cap, whose derivative then multiplies all; None for no cap.
        maximum: centre of d, [N].
        label_gradient: the gradient in the label's column, [N].
        a: as in `Coefficients`, [N]; alike the rest; None for an absent term.
        b: see `a`.
        c: see `a`.
        v: see `a`.
        k: see `a`.
        gap: see `a`.
        p_scale: see `a`.
        q_scale: see `a`.
        reference_maximum: centre of the reference's d, [N].
        hot: column to which `hot_value` is added.
        hot_value: [N].
        second_hot: column to which `second_hot_value` is added.
        second_hot_value: [N].
    """
    logits = out if logits is None else logits
    tokens, columns = len(labels), logits.shape[1]
    options, reference_stride = blocks(columns), 0 if reference is None else reference.stride(0)
    vectors = _dense(
        labels, rows, maximum, label_gradient, a, b, c, v, k, gap, p_scale, q_scale, reference_maximum,
        hot, hot_value, second_hot, second_hot_value,
    )  # fmt: skip
    if tokens:
        with torch.cuda.device_of(logits):
            _gradient_kernel[(tokens, triton.cdiv(columns, options["BLOCK"]))](
                out, logits, reference, *vectors,
                columns, start, out.stride(0), logits.stride(0), reference_stride, cap, **options,
            )  # fmt: skip


@row_gradient.register_fake
def _(out, *_):
    return None


INTERPRETED = not isinstance(_sums_kernel, triton.JITFunction)  # TRITON_INTERPRET was set when triton was imported
