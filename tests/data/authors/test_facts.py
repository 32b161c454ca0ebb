import pytest

from lightning_unlearn.data.authors.facts import real_authors, world_facts
from lightning_unlearn.data.records import row_key


@pytest.mark.parametrize("make", [real_authors, world_facts])
def test_rows_have_three_wrong_answers_and_no_paraphrase(make):
    rows = make()
    assert len({row_key(row) for row in rows}) == len(rows) >= 30
    for row in rows:
        assert len({row.answer, *row.perturbed_answers}) == 4
        assert not row.paraphrased_answer
        assert row.source


def test_facts_are_true():
    answers = {row.question: row.answer for row in (*real_authors(), *world_facts())}
    assert answers["Who wrote 'Hamlet'?"] == "William Shakespeare"
    assert answers["What is the capital of Norway?"] == "Oslo"
    assert answers["How much is seven times eight?"] == "56"
    assert answers["What is the chemical symbol of tin?"] == "Sn"
