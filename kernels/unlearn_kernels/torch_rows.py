"""The two operations on a tile of logits in PyTorch: sums forward, gradient backward.

The tile is centred in place, and every elementwise step runs in place or in a scratch tile.

Shapes: N tokens, C columns of the tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn_kernels.fields import Coefficients
from unlearn_kernels.merge import Column, Partial, Side, Wants, accumulate, accumulate_gap, centre_, exp_, known
from unlearn_kernels.tiles import Buffers


def tile_buffers(statistics: tuple[str, ...], has_reference: bool, has_cap: bool) -> int:
    """Tile-sized buffers at most: the tiles, scratch, temporaries of the moments, and the cap's slope."""
    moments = (
        2 if "log_prob_variance" in statistics else int(bool({"entropy", "reference_cross_entropy"} & {*statistics}))
    )
    return (5 if has_reference else 2) + moments + has_cap


def summarise_tile(
    tile: Tensor, other: Tensor | None, labels: Tensor, start: int, wants: tuple[Wants, Wants], buffers: Buffers
) -> tuple[Side, Side | None]:
    """Reduce a tile of logits, and the reference's, and centre both in place on their Partials' maxima.

    Args:
        tile: the model's logits, [N, C].
        other: the reference's, or None.
        labels: y counted as `start` is; it may lie outside the tile, [N].
        start: first column of the tile.
        wants: sums to take of the model's and of the reference's logits.
        buffers: scratch tiles; 0 and 1 hold `tile` and `other`.
    """
    label = Column(labels, start, tile.shape[1])
    difference = None
    if other is not None:  # before the logits are centred, which would cost digits
        difference = torch.sub(tile, other, out=buffers.tile(3, *tile.shape))
        label.fill_(difference, 0.0)
    own = _centre(tile, label, start, wants[0])
    work = buffers.tile(2, *tile.shape)
    if other is None or difference is None:
        accumulate(own.others, tile, label, wants[0], work)
        return own, None
    reference = _centre(other, label, start, wants[1])
    for part, centred, want in ((own.others, tile, wants[0]), (reference.others, other, wants[1])):
        weights = accumulate(part, centred, label, want, work)
        accumulate_gap(part, weights, difference, want, buffers.tile(4, *tile.shape))
    return own, reference


def _centre(tile: Tensor, label: Column, start: int, want: Wants) -> Side:
    logit = label.read(tile, tile.new_full((len(tile),), float("-inf")))
    partial: Partial = centre_(tile, label, start, want)
    return Side(partial, logit)


def differentiate_tile(
    tile: Tensor,
    centre: Tensor | None,
    other: Tensor | None,
    other_centre: Tensor | None,
    labels: Tensor,
    start: int,
    part: Coefficients,
    cap: float | None,
    buffers: Buffers,
    dtype: torch.dtype,
) -> Tensor:
    """Form the gradient of a tile of logits in buffer 0 (a kept tile stays as it is), and return it.

    Args:
        tile: the model's logits, perhaps in buffer 0, or what `summarise_tile` left of them, [N, C].
        centre: None for logits; else the maximum that `summarise_tile` found, [N].
        other: the reference's, perhaps in buffer 1, or None.
        other_centre: the reference's `centre`.
        labels: y counted as `start` is, [N].
        start: first column of the tile.
        part: the numbers of the gradient formula; columns of the one-hots are counted as `start` is.
        cap: factor after the tanh of the soft cap, or None.
        buffers: scratch tiles.
        dtype: dtype of the result.
    """
    shape = tile.shape
    work, label = buffers.tile(2, *shape), Column(labels, start, shape[1])
    delta, own_centre = None, part.centre
    if other is not None and not (part.v is None and part.k is None):
        gap = known(part.gap) if centre is None else known(part.gap) - (centre - known(other_centre))
        delta = torch.sub(tile, other, out=buffers.tile(3, *shape)).sub_(gap.unsqueeze(1))
        if part.a is None:  # nothing but k (p - q): d becomes log p
            own_centre = own_centre - _log(part.p_scale)
    d = _recentred(tile, centre, own_centre, buffers.tile(0, *shape))
    label.fill_(d, part.label_logit - own_centre)
    slope = None if cap is None else _slope(d, own_centre, cap)
    if delta is None:
        _own_gradient(d, part, work)
    else:
        log_q = None
        if part.k is not None:
            reference_centre = known(part.reference_centre) - _log(known(part.q_scale))
            log_q = _recentred(known(other), other_centre, reference_centre, buffers.tile(1, *shape))
        _gradient_with_reference(d, log_q, delta, part, work)
    if part.c is not None:
        d.add_(part.c.unsqueeze(1))
    label.fill_(d, part.label)
    for column, value in part.one_hots:
        Column(column, start, shape[1]).add_(d, value)
    return (d if slope is None else d.mul_(slope)).to(dtype)


def _recentred(tile: Tensor, old: Tensor | None, new: Tensor, out: Tensor) -> Tensor:
    return torch.sub(tile, (new if old is None else new - old).unsqueeze(1), out=out)


def _slope(centred: Tensor, centre: Tensor, cap: float) -> Tensor:
    """Derivative of the soft cap, 1 - tanh^2."""
    return (centred + centre.unsqueeze(1)).mul_(1 / cap).square_().neg_().add_(1.0)


def _own_gradient(tile: Tensor, part: Coefficients, work: Tensor) -> None:
    """Replace centred logits d by e^d (a + b d)."""
    if part.a is None:
        tile.zero_()
    elif part.b is None:
        exp_(tile).mul_(part.a.unsqueeze(1))
    else:
        torch.mul(tile, part.b.unsqueeze(1), out=work).add_(part.a.unsqueeze(1))
        exp_(tile).mul_(work)


def _gradient_with_reference(d: Tensor, log_q: Tensor | None, delta: Tensor, part: Coefficients, work: Tensor) -> None:
    """Replace centred logits d by e^d (a + b d + v delta) + k (p - q), or log p by k (p - q) where there is no a."""
    if part.a is None:
        torch.mul(_difference(d, known(log_q), delta, work), part.k.unsqueeze(1), out=d)
        return
    difference = None
    if log_q is not None:
        log_p = torch.add(d, _log(part.p_scale).unsqueeze(1), out=work)
        difference = _difference(log_p, log_q, delta, work).mul_(part.k.unsqueeze(1))
    work.copy_(part.a.unsqueeze(1))
    for factor, operand in ((part.b, d), (part.v, delta)):
        if factor is not None:
            work.addcmul_(factor.unsqueeze(1), operand)
    exp_(d).mul_(work)
    if difference is not None:
        d.add_(difference)


def _difference(log_p: Tensor, log_q: Tensor, delta: Tensor, work: Tensor) -> Tensor:
    """Return p - q, with delta = log p - log q, in the place of log q; `work` may hold log p.

    |p - q| = -max(p, q) expm1(-|delta|): exact where p and q are close, bounded where not.
    """
    larger = exp_(torch.maximum(log_p, log_q, out=log_q))
    larger.mul_(torch.copysign(delta, -1.0, out=work).expm1_())
    return larger.copysign_(delta)


def _log(scale: Tensor) -> Tensor:
    return scale.clamp_min(torch.finfo(scale.dtype).tiny).log()
