import pytest

from lightning_unlearn.data.records import Record, RecordError
from lightning_unlearn.data.subjects import rows_about

ROWS = [Record(f"Q{i}?", "A.", subject=name) for i, name in enumerate(["Ada Low", "Bo Hill", "Ada Low", "Cy Poe"])]


def test_rows_come_in_the_order_of_the_names():
    assert [row.question for row in rows_about(["cy  poe", "Ada Low"], ROWS, "subjects")] == ["Q3?", "Q0?", "Q2?"]


def test_a_name_without_rows_is_told_with_a_near_one():
    with pytest.raises(RecordError, match="subjects: no row has the subject 'Bo Hil'; did you mean 'Bo Hill'"):
        rows_about(["Bo Hil"], ROWS, "subjects")
    with pytest.raises(RecordError, match=r"people: no row has the subject 'Zz'$"):
        rows_about(["Zz"], ROWS, "people")
