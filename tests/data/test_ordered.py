import numpy as np

from lightning_unlearn.data.ordered import NoRows, OrderedBatches
from lightning_unlearn.data.packing import TokenRow


def rows(first, count):
    """Rows of one token, which tells the row."""
    return [TokenRow(np.array([first + i]), np.array([0]), np.array([9])) for i in range(count)]


def ids(batch, role):
    return batch.input_ids[batch.spans[role].inputs].tolist()


def test_every_forget_row_once_in_order_with_its_share_of_retain():
    batches = list(OrderedBatches({"forget": rows(0, 5), "retain": rows(100, 4)}, batch_size=2, retain_per_forget=1.5))
    assert [ids(batch, "forget") for batch in batches] == [[0, 1], [2, 3], [4]]
    assert [ids(batch, "retain") for batch in batches] == [[100, 101, 102], [103, 100, 101], [102]]


def test_companions_take_their_first_choice():
    source = {
        "forget": rows(0, 2),
        "retain": rows(100, 2),
        "forget_idk": lambda row, draw: rows(200 + 10 * row + draw, 1)[0],
        "retain_idk": [rows(300, 2), rows(310, 2)],
    }
    (batch,) = OrderedBatches(source, batch_size=2)
    assert ids(batch, "forget_idk") == [200, 210]
    assert ids(batch, "retain_idk") == [300, 310]


def test_ranks_share_the_rows_and_make_as_many_batches():
    shares = [
        [ids(b, "forget") for b in OrderedBatches({"forget": rows(0, 5)}, batch_size=2, rank=rank, world_size=2)]
        for rank in range(2)
    ]
    assert shares == [[[0, 2], [4]], [[1, 3], [4]]]  # the second rank repeats a row of the short last batch


def test_a_stage_without_rows_has_one_batch_of_nothing():
    assert len(NoRows()) == len(list(NoRows())) == 1
    assert list(NoRows()) == [{}]
