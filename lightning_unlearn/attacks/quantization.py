"""Coarser weights: a small change that hid knowledge may be rounded away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_unlearn.attacks.base import Attack, Measurement, throwaway
from lightning_unlearn.attacks.exam import Exam, Scores
from lightning_unlearn.head import causal_lm
from lightning_unlearn.layers import decoder_layers
from lightning_unlearn.models import load_causal_lm, save_model
from lightning_unlearn.parts import device_of


class Quantization(Attack):
    """Rounds the weights of the decoder layers to fewer bits, adapters merged before (Zhang et al., ICLR 2025).

    Embedding and output head stay as they are, as in the usual quantised checkpoints.

    Args:
        bits: a point for each.
        group: weights that share a scale, along each row; by default a row does, which is an output channel.
        bitsandbytes: with bits 4, use its NF4 format in place of rounding to the nearest; needs the package.

    Raises:
        ValueError: for bits below 2, a group below 1, or `bitsandbytes` with other bits than 4.
    """

    x_name: ClassVar[str] = "bits"

    def __init__(self, *, bits: Sequence[int] = (8, 4), group: int | None = None, bitsandbytes: bool = False) -> None:
        if not bits or not all(count >= 2 for count in bits):
            raise ValueError(f"bits must be at least 2 each, and one at least, got {list(bits)}")
        if group is not None and group < 1:
            raise ValueError(f"group must be at least 1, got {group}")
        if bitsandbytes and list(bits) != [4]:
            raise ValueError(f"bits must be [4] with bitsandbytes, got {list(bits)}")
        self.bits = list(bits)
        self.group = group
        self.bitsandbytes = bitsandbytes

    @property
    def name(self) -> str:
        """See `Attack`."""
        return "quantization_nf4" if self.bitsandbytes else "quantization"

    def points(self, model: nn.Module, exam: Exam) -> Iterator[Measurement]:
        """See `Attack`; the first point is the model in its own precision."""
        yield 8 * next(model.parameters()).element_size(), partial(exam.scores, model, exam.forget)
        for bits in self.bits:
            yield bits, partial(self._scores, model, exam, bits)

    def _scores(self, model: nn.Module, exam: Exam, bits: int) -> Scores:
        coarse = four_bit(model) if self.bitsandbytes else quantized(model, bits, group=self.group)
        return exam.scores(coarse, exam.forget)


def round_to_nearest(weight: Tensor, bits: int, *, group: int | None = None) -> Tensor:
    """Round weights to the nearest of 2^bits - 1 evenly spaced values, symmetric around 0, in their own dtype.

    w -> s round(w / s) with s = max |w| / (2^(bits - 1) - 1) over each group of the last dimension.

    Args:
        weight: [..., in].
        bits: at least 2.
        group: how many share a scale (default: all of the last dimension); the last group may hold fewer.

    Example:
        >>> round_to_nearest(torch.tensor([[1.0, 0.4, -0.7]]), 2)
        tensor([[ 1.,  0., -1.]])
    """
    groups = weight.float().split(group or weight.shape[-1], dim=-1)
    levels = 2 ** (bits - 1) - 1
    scales = [part.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / levels for part in groups]
    rounded = [(part / scale).round() * scale for part, scale in zip(groups, scales, strict=True)]
    return torch.cat(rounded, -1).to(weight.dtype)


@torch.no_grad()
def quantized(model: nn.Module, bits: int, *, group: int | None = None) -> nn.Module:
    """A copy of a model whose decoder layers have rounded weights: every parameter with two or more dimensions."""
    copied = throwaway(model)
    for parameter in decoder_layers(causal_lm(copied))[1].parameters():
        if parameter.ndim > 1 and parameter.is_floating_point():
            parameter.copy_(round_to_nearest(parameter, bits, group=group))
    return copied


def four_bit(model: nn.Module) -> nn.Module:
    """A copy of a model in NF4, see `lightning_unlearn.four_bit`."""
    with TemporaryDirectory() as folder:
        save_model(model, None, Path(folder))
        return load_causal_lm(folder, load_in_4bit=True).eval().to(device_of(model))
