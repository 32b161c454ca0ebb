"""Token budgets: what every micro-batch, epoch and optimiser step holds."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_unlearn.data.batching import rows_a_batch
from lightning_unlearn.data.bins import next_fit
from lightning_unlearn.data.ordered import OrderedBatches
from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.data.sampling import UnlearningLoader

EPOCHS = 3


def row(name: int, length: int) -> TokenRow:
    """A row of `length` tokens that starts with its name, and labels the second half of them."""
    ids = np.array([name] + [7] * (length - 1))
    labelled = np.arange(length // 2, length)
    return TokenRow(ids, labelled, np.full(len(labelled), 7))


def make_rows(forget: list[int], retain: list[int], idk: int = 0) -> dict:
    rows: dict = {"forget": [row(i, n) for i, n in enumerate(forget)]}
    if retain:
        rows["retain"] = [row(1000 + i, n) for i, n in enumerate(retain)]
    if idk:
        rows["forget_idk"] = lambda index, turn: row(2000 + index, 1 + (index + turn) % idk)
    return rows


def make(rows: dict, cap: int, *, epochs: int = EPOCHS, micro: int = 1, **options) -> UnlearningLoader:
    return UnlearningLoader(
        rows, tokens_per_batch=cap, epochs=lambda batches: epochs, accumulate=lambda: micro, **options
    )


def ranks(rows: dict, cap: int, world: int, **options) -> list[UnlearningLoader]:
    return [make(rows, cap, rank=rank, world_size=world, **options) for rank in range(world)]


def names(plan: dict, role: str) -> list[int]:
    return [int(r.input_ids[0]) for r in plan.get(role, ())]


def tokens(plan: dict) -> int:
    return sum(len(r.input_ids) for rows in plan.values() for r in rows)


def batch_names(batch, role: str) -> list[int]:
    return batch.input_ids[batch.cu_seq_lens[batch.rows(role)].long()].tolist()


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=25)


@st.composite
def tasks(draw) -> tuple[dict, int, dict]:
    rows = make_rows(draw(LENGTHS), draw(st.just([]) | LENGTHS), draw(st.integers(0, 3)))
    ratio = draw(st.sampled_from([0.3, 1.0, 1.7]))
    cap = 9 + 3 + 2 * 9 + draw(st.integers(0, 40))  # a unit holds a row, a refusal and at most two retain rows
    return rows, cap, {"retain_per_forget": ratio, "seed": draw(st.integers(0, 5))}


@given(tasks(), st.integers(1, 3), st.integers(1, 3))
def test_every_row_once_an_epoch_in_order_none_above_the_cap(task, world, micro):
    rows, cap, options = task
    loaders = ranks(rows, cap, world, micro=micro, **options)
    one_a_step = UnlearningLoader(rows, batch_size=1, **options)
    (length,) = {len(loader) for loader in loaders}
    assert length % micro == 0
    for epoch in range(EPOCHS):
        for loader in (*loaders, one_a_step):
            loader.set_epoch(epoch)
        plans = [loaders[0].plan(step, rank) for step in range(length) for rank in range(world)]
        assert max(map(tokens, plans)) <= cap
        for role in rows:
            expected = [name for step in range(len(one_a_step)) for name in names(one_a_step.plan(step, 0), role)]
            assert [name for plan in plans for name in names(plan, role)] == expected
        for loader in loaders:
            batches = list(loader)
            assert len(batches) == length  # in every epoch: Lightning counts once
            assert all(len(batch.input_ids) <= cap for batch in batches)  # with what stands in, too


@given(tasks(), st.sampled_from([(1, 6, 2, 3), (3, 2, 6, 1), (1, 4, 4, 1), (2, 2, 4, 1)]))
def test_an_optimiser_step_holds_the_same_bins_however_it_is_split(task, split):
    rows, cap, options = task
    world, micro, other_world, other_micro = split

    def steps(world: int, micro: int) -> list:
        loader = make(rows, cap, micro=micro, world_size=world, **options)
        found = []
        for epoch in range(EPOCHS):
            loader.set_epoch(epoch)
            bins = [loader.plan(step, rank) for step in range(len(loader)) for rank in range(world)]
            found += [[{role: names(bin_, role) for role in rows} for bin_ in bins[at : at + world * micro]]
                      for at in range(0, len(bins), world * micro)]  # fmt: skip
        return found

    assert steps(world, micro) == steps(other_world, other_micro)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("micro", [1, 3])
def test_scales_add_up_to_the_mean_of_the_step(world, micro):
    rows = make_rows([9, 1, 4, 6, 2, 8, 3, 5, 7, 1, 1], [3, 9, 2, 5])
    loaders = ranks(rows, 24, world, micro=micro, retain_per_forget=0.6)
    batches = [list(loader) for loader in loaders]
    for first in range(0, len(loaders[0]), micro):
        window = [batch for of_rank in batches for batch in of_rank[first : first + micro]]
        share = micro * world  # Lightning divides by the one, data parallelism by the other
        for role in ("forget", "retain"):
            counted = [b for b in window if b.scales[role].token and len(b.targets[b.tokens(role)])]
            if counted:
                ones = sum(b.token_mean(torch.ones(len(b.targets[b.tokens(role)])), role) for b in window) / share
                assert ones == pytest.approx(1.0)
                assert sum(b.row_mean(torch.ones(len(batch_names(b, role))), role) for b in window) / share == (
                    pytest.approx(1.0)
                )


def test_bins_fill_whole_optimiser_steps():
    rows = make_rows([9, 9, 9], [])
    assert [len(make(rows, 9, micro=micro)) for micro in (1, 2, 3, 4)] == [3, 4, 3, 4]
    assert [len(make(rows, 9, micro=2, world_size=world)) for world in (1, 2, 3)] == [4, 2, 2]


def test_a_micro_batch_without_rows_gets_one_that_weighs_nothing():
    # three rows that do not fit together, in steps of four bins
    for rank, loader in enumerate(ranks(make_rows([6, 6, 6], [6] * 5), 12, 4)):
        (batch,) = loader
        assert len(batch_names(batch, "forget")) == len(batch_names(batch, "retain")) == 1
        assert (batch.scales["forget"].token == 0) == (batch.scales["retain"].row == 0) == (rank == 3)


def test_rows_that_stand_in_do_not_break_the_budget():
    """One retain row for four forget rows: most bins have none, and one more row would not fit."""
    loader = make(make_rows([10] * 7, [9] * 4), 19, retain_per_forget=0.25)
    loader.set_epoch(1)  # forget positions 7, ..., 13; retain positions come with 7 and 11
    assert [len(batch.input_ids) for batch in loader] == [19, 10, 10, 10, 19, 10, 10]


def test_roles_that_are_not_read_do_not_count():
    rows = make_rows([5] * 6, [5] * 6, idk=1)
    assert len(make(rows, 22)) == 3  # two units of 5 + 5 + 1
    read = make(rows, 22, roles=("forget_idk", "retain"))
    assert len(read) == 2  # three of 1 + 5
    assert next(iter(read)).roles == ("retain", "forget_idk")  # in the order of the rows


def test_epochs_that_need_fewer_bins_are_cut_into_as_many():
    # 8 1 8 1 8 1 fits into three bins, 8 8 8 1 1 1 needs four
    loader = make(make_rows([1, 8, 1, 8, 1, 8], []), 9, epochs=12)
    needed = [len(next_fit(loader.orders.units(epoch, loader.roles), 9)) - 1 for epoch in range(12)]
    assert (min(needed), max(needed)) == (3, len(loader))
    for epoch in range(12):
        loader.set_epoch(epoch)
        assert all(names(loader.plan(step, 0), "forget") for step in range(len(loader)))


def test_an_epoch_that_was_not_announced_and_needs_more():
    rows = make_rows([1, 8, 1, 8, 1, 8, 1, 8], [])
    needs = []
    for seed in range(20):
        loader = make(rows, 9, epochs=1, seed=seed)
        for epoch in range(5):
            loader.set_epoch(epoch)
            try:
                loader.plan(0, 0)
            except ValueError as error:
                needs.append(str(error))
    assert needs
    assert all("epochs must announce epoch" in message and "got 1" in message for message in needs)


def test_the_fullness_is_known():
    loader = make(make_rows([5, 5, 5], []), 10)
    assert loader.batches.fill(0) == pytest.approx(15 / 20)


def test_ordered_batches_within_a_budget():
    rows = make_rows([3, 4, 5, 6], [1, 2], idk=1)
    ordered = OrderedBatches(rows, tokens_per_batch=14)  # units of 3+1+1, 4+2+1, 5+1+1, 6+2+1
    batches = list(ordered)
    assert [batch_names(batch, "forget") for batch in batches] == [[0, 1], [2], [3]]
    assert [batch_names(batch, "retain") for batch in batches] == [[1000, 1001], [1000], [1001]]
    shares = [OrderedBatches(rows, tokens_per_batch=14, rank=rank, world_size=2) for rank in range(2)]
    # four bins for two ranks: the fullest, of units 0 and 1, is cut
    assert [[batch_names(b, "forget") for b in share] for share in shares] == [[[0], [2]], [[1], [3]]]


@pytest.mark.parametrize(
    ("sizes", "found"), [((None, None), 8), ((3, None), 3), ((None, 100), None)], ids=["neither", "rows", "tokens"]
)
def test_one_of_two_sizes(sizes, found):
    assert rows_a_batch(*sizes) == found


@pytest.mark.parametrize("make_it", [UnlearningLoader, OrderedBatches])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2, "tokens_per_batch": 9}, r"only one of .* got batch_size=2 and tokens_per_batch=9"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"tokens_per_batch": 0}, "tokens_per_batch must be at least 1, got 0"),
        ({"tokens_per_batch": 7}, r'tokens_per_batch must be at least 8: .* rows\["forget"\]\[2\] holds alone; got 7'),
        ({"roles": ("forget_idk",)}, r"roles must name some of \('forget', 'retain'\), got \('forget_idk',\)"),
        ({"roles": ()}, r"roles must name some of .* got \(\)"),
    ],
)
def test_what_cannot_be_cut_is_refused_at_once(make_it, options, message):
    with pytest.raises(ValueError, match=message):
        make_it(make_rows([3, 4, 8], [2]), **options)


def test_a_unit_above_the_budget_is_told_before_training():
    # row 2 holds 8 tokens, and the retain row that goes with it 5
    loader = make(make_rows([3, 4, 8], [5]), 12)
    with pytest.raises(ValueError, match=r'at least 13: so many tokens rows\["forget"\]\[2\] holds with .* epoch 0'):
        len(loader)


def test_a_budget_needs_an_end_of_training():
    loader = UnlearningLoader(make_rows([3], []), tokens_per_batch=9, epochs=lambda batches: inf)
    with pytest.raises(ValueError, match="max_epochs or max_steps of the Trainer must be set"):
        len(loader)
