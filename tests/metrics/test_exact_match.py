import pytest

from lightning_unlearn.metrics.exact_match import ExactMatch, exact_match


def test_case_and_outer_spaces_do_not_count_and_all_else_does():
    assert exact_match("  Ana Lindqvist\n", "ana lindqvist")
    assert not exact_match("Ana  Lindqvist", "Ana Lindqvist")
    assert not exact_match("Ana Lindqvist.", "Ana Lindqvist")
    assert not exact_match("", "Ana")


def test_metric_is_the_share_of_rows():
    metric = ExactMatch()
    metric.update(["a", "b"], ["A", "c"])
    metric.update(["d"], ["d"])
    assert metric.compute().item() == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        metric.update(["a"], ["a", "b"])
