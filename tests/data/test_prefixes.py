"""Groups of rows whose common beginning is packed once."""

import numpy as np
import pytest

from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.data.prefixes import pack_groups, packed_tokens, shared_length


def row(ids, first):
    """Make a row that labels its tokens from number `first` on, and eos (1) in the end."""
    ids = np.array(ids, dtype=np.int64)
    positions = np.arange(first - 1, len(ids))
    return TokenRow(ids, positions, np.append(ids, 1)[positions + 1])


QUESTION = [10, 11, 12, 13]
GROUP = [row([*QUESTION, 20, 21], 4), row([*QUESTION, 22], 4), row([*QUESTION, 20, 23, 24], 4)]


@pytest.mark.parametrize(
    ("group", "shared"),
    [
        (GROUP, 4),
        (GROUP[::2], 5),  # the answers begin alike too
        (GROUP[:1], 0),
        ([row(QUESTION, 3), row(QUESTION, 3)], 0),  # a token of each is left, and three are too few
        ([row([*QUESTION, 5], 3), row([*QUESTION, 5], 3)], 4),
        ([row([1, 2, 3, 4, 5], 2), row([9, 2, 3, 4, 5], 2)], 0),
    ],
)
def test_what_a_group_shares(group, shared):
    assert shared_length(group) == shared
    assert packed_tokens(group) == sum(len(one.input_ids) for one in group) - (len(group) - 1) * shared


def test_packed_by_hand():
    batch = pack_groups([GROUP, [row([7, 8], 1)]])
    assert batch.input_ids.tolist() == [10, 11, 12, 13, 20, 21, 22, 20, 23, 24, 7, 8]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 4, 4, 5, 6, 0, 1]
    assert batch.lengths == (4, 2, 1, 3, 2)
    assert batch.parents == (-1, 0, 0, 0, -1)
    # The first target of each answer is predicted by the question's last token.
    assert batch.target_index.tolist() == [3, 4, 5, 3, 6, 3, 7, 8, 9, 10, 11]
    assert batch.targets.tolist() == [20, 21, 1, 22, 1, 20, 23, 24, 1, 8, 1]
    assert batch.target_row.tolist() == [1] * 3 + [2] * 2 + [3] * 4 + [4] * 2
    assert batch.spans["rows"] == (slice(0, 5), slice(0, 11), slice(0, 12))


def test_nothing_to_pack():
    with pytest.raises(ValueError, match="groups must hold at least one row, got none"):
        pack_groups([[], []])
