"""The tile operations in PyTorch, by hand; both public operations test them at length."""

import math

import torch

from unlearn_kernels import torch_rows
from unlearn_kernels.fields import Coefficients
from unlearn_kernels.merge import Wants
from unlearn_kernels.tiles import Buffers

NONE = (Wants(), Wants())


def buffers(elements):
    return Buffers(elements, torch.float64, torch.device("cpu"))


def test_a_tile_is_summed_without_the_label_and_centred_in_place():
    tile = torch.tensor([[1.0, 5.0, 3.0]], dtype=torch.float64)
    side, reference = torch_rows.summarise_tile(tile, None, torch.tensor([101]), 100, NONE, buffers(3))
    assert reference is None
    assert side.label.item() == 5
    assert side.others.maximum.item() == 3
    assert side.others.total.item() == 1 + math.exp(-2)
    assert tile.tolist() == [[-2, 0, 0]]  # 0 at the label


def test_a_label_outside_the_tile_is_minus_infinity():
    tile = torch.zeros(1, 2, dtype=torch.float64)
    side, _ = torch_rows.summarise_tile(tile, None, torch.tensor([2]), 0, NONE, buffers(2))
    assert side.label.item() == -math.inf
    assert side.others.total.item() == 2


def test_the_gradient_of_logits_and_of_a_kept_tile_is_the_same():
    z = torch.tensor([[1.0, 5.0, 3.0]], dtype=torch.float64)
    one, labels = torch.ones(1, dtype=torch.float64), torch.tensor([1])
    part = Coefficients(label=7 * one, label_logit=5 * one, centre=3 * one, p_scale=one, a=2 * one, c=0.5 * one)
    part.one_hots = [(torch.tensor([0]), 10 * one)]
    expected = [[2 * math.exp(-2) + 0.5 + 10, 7, 2.5]]
    fresh = torch_rows.differentiate_tile(z.clone(), None, None, None, labels, 0, part, None, buffers(3), z.dtype)
    torch.testing.assert_close(fresh, torch.tensor(expected, dtype=torch.float64))
    kept = torch.tensor([[-3.0, 0.0, -1.0]], dtype=torch.float64)  # centred on 4 in forward, 0 at the label
    again = torch_rows.differentiate_tile(kept, 4 * one, None, None, labels, 0, part, None, buffers(3), z.dtype)
    torch.testing.assert_close(again, fresh)
    capped = torch_rows.differentiate_tile(z.clone(), None, None, None, labels, 0, part, 10.0, buffers(3), z.dtype)
    torch.testing.assert_close(capped, fresh * (1 - (z / 10) ** 2))
