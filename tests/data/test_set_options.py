import pytest

from lightning_unlearn.data.set_options import LIKELIHOOD_ONLY, SetOptions, options_of


def test_a_text_ends_where_the_first_of_the_stops_begins():
    options = SetOptions(stop=("\n\n", "Question:"))
    assert options.until_stop("Rome\nor Question: Who?\n\nAna") == "Rome\nor "
    assert options.until_stop("Rome\n\nQuestion: Who?") == "Rome"
    assert options.until_stop("\n\nRome") == ""
    assert options.until_stop("Rome") == SetOptions().until_stop("Rome") == "Rome"


def test_options_of_a_set_and_of_earlier_requests():
    given = {"forget": SetOptions(max_new_tokens=3), "holdout": LIKELIHOOD_ONLY}
    assert options_of("forgotten_2", given) == options_of("forget", given) == SetOptions(max_new_tokens=3)
    assert not options_of("holdout", given).generate
    assert options_of("retain", given) == SetOptions()


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        SetOptions(max_new_tokens=0)
