import pytest

from unlearn_kernels.statistics import FIELDS, NEED_LABEL, NEED_REFERENCE, NOT_DIFFERENTIABLE, check_statistics


def test_fields_come_back_once_and_in_the_order_of_the_record():
    assert check_statistics(["entropy", "log_prob", "entropy"], False) == ("log_prob", "entropy")


def test_groups_name_existing_fields():
    named = NEED_LABEL | NEED_REFERENCE | NOT_DIFFERENTIABLE
    assert named.issubset(FIELDS)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ("log_prob", "non-empty sequence of field names, got 'log_prob'"),
        ((), "non-empty"),
        (("log_prob", "perplexity"), r"got \['perplexity'\]"),
        (("reverse_kl",), r"\['reverse_kl'\] need a reference"),
    ],
)
def test_errors_name_the_value(statistics, message):
    with pytest.raises(ValueError, match=message):
        check_statistics(statistics, has_reference=False)
