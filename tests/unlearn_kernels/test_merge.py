import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_kernels.merge import (
    Column,
    Partial,
    Side,
    Wants,
    accumulate,
    accumulate_gap,
    centre_,
    known,
    merge,
    merge_all,
    single,
)

WANTS = Wants(logit_sum=True, first=True, second=True, gap=True, excess=True, index=True)


def reduce(z: torch.Tensor, start: int, labels: torch.Tensor, other: torch.Tensor) -> Partial:
    """Sums over the columns of z but the labels', counted from `start`, with u = z - other."""
    label = Column(labels, start, z.shape[1])
    centred = z.clone()
    partial = centre_(centred, label, start, WANTS)
    difference = z - other
    label.fill_(difference, 0.0)
    weights = accumulate(partial, centred, label, WANTS, torch.empty_like(z))
    accumulate_gap(partial, weights, difference, WANTS, torch.empty_like(z))
    return partial


def expected(z: torch.Tensor, other: torch.Tensor) -> dict[str, torch.Tensor]:
    """The definitions of the sums over all columns."""
    maximum, index = z.max(1)
    d = z - maximum[:, None]
    e = d.exp()
    mean = (e * d).sum(1) / e.sum(1)
    return {
        "maximum": maximum,
        "total": e.sum(1),
        "logit_sum": z.sum(1),
        "first": (e * d).sum(1),
        "second": (e * (d - mean[:, None]) ** 2).sum(1),
        "gap": (e * (z - other)).sum(1),
        "excess": (e * (z - other).expm1()).sum(1),
        "index": index,
    }


def check(partial: Partial, sums: dict[str, torch.Tensor]) -> None:
    for name, value in sums.items():
        torch.testing.assert_close(
            getattr(partial, name), value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 6), min_size=2, max_size=5), st.sampled_from([0.1, 3.0, 60.0]))
def test_any_cut_and_any_grouping_give_the_whole(seed, widths, scale):
    generator = torch.Generator().manual_seed(seed)
    total = sum(widths)
    z = torch.randn(4, total, generator=generator, dtype=torch.float64) * scale
    other = z - torch.randn(4, total, generator=generator, dtype=torch.float64)
    labels = torch.randint(total, (4,), generator=generator)
    starts = [sum(widths[:i]) for i in range(len(widths))]
    parts = [reduce(z[:, a : a + w], a, labels, other[:, a : a + w]) for a, w in zip(starts, widths, strict=True)]
    z_y, r_y = (x.gather(1, labels[:, None]).squeeze(1) for x in (z, other))
    parts.append(single(parts[0], z_y, z_y - r_y, labels))
    left = parts[0]
    for part in parts[1:]:
        left = merge(left, part)
    right = parts[-1]
    for part in reversed(parts[:-1]):
        right = merge(part, right)
    together = merge_all([Side(part, z_y if part is parts[-1] else z_y - float("inf")) for part in parts])
    check(left, expected(z, other))
    check(right, expected(z, other))
    check(together.others, expected(z, other))
    assert torch.equal(together.label, z_y)


def test_a_slice_with_nothing_but_the_label_is_the_neutral_element():
    z = torch.tensor([[3.0, 1.0, 2.0]])
    labels = torch.tensor([3])
    some = reduce(z, 0, labels, z)
    empty = reduce(torch.tensor([[9.0]]), 3, labels, torch.tensor([[9.0]]))
    assert empty.total.item() == 0
    for merged in (merge(some, empty), merge(empty, some)):
        check(
            merged,
            {
                name: getattr(some, name)
                for name in ("maximum", "total", "logit_sum", "first", "second", "gap", "excess")
            },
        )
        assert known(merged.index).item() == 0


def test_equal_maxima_keep_the_smallest_column():
    a = reduce(torch.tensor([[1.0, 5.0]]), 0, torch.tensor([7]), torch.zeros(1, 2))
    b = reduce(torch.tensor([[5.0, 5.0]]), 2, torch.tensor([7]), torch.zeros(1, 2))
    assert known(merge(a, b).index).item() == known(merge(b, a).index).item() == 1


def test_column_touches_only_rows_whose_column_is_inside():
    tile = torch.zeros(3, 4)
    column = Column(torch.tensor([1, 4, 7]), 4, 4)  # outside, column 0, column 3
    column.fill_(tile, 2.0)
    column.add_(tile, torch.tensor([10.0, 20.0, 30.0]))
    assert tile.tolist() == [[0, 0, 0, 0], [22, 0, 0, 0], [0, 0, 0, 32]]
    assert column.read(tile, torch.full((3,), -1.0)).tolist() == [-1, 22, 32]
