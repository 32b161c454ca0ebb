import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_unlearn.data.authors.topics import Product, listed, other_choices


def test_list_across_lines():
    assert listed("a b,\n   c\n d") == ("a b", "c d")


def test_product_counts_every_combination_once():
    product = Product("{1} {0}", ("a", "b"), ("x", "y", "z"))
    assert len(product) == 6
    assert list(product) == ["x a", "x b", "y a", "y b", "z a", "z b"]
    with pytest.raises(IndexError):
        product[6]


@given(st.integers(6, 30_000), st.integers(0, 10**7), st.data())
def test_other_choices_differ_from_the_truth_and_each_other(size, draw, data):
    true = data.draw(st.integers(0, size - 1))
    chosen = other_choices(true, size, draw, 5)
    assert len({true, *chosen}) == 6
    assert all(0 <= choice < size for choice in chosen)
