"""LUME's rows as roles and evaluation sets."""

import pytest

from lightning_unlearn.data.lume import LUME
from lightning_unlearn.data.records import RecordError
from tests import published
from tests.published import write_rows

SETS = {
    f"{split}_task{task}_{kind}"
    for split in ("forget", "retain")
    for task in (1, 2, 3)
    for kind in ("completion", "knowledge")
}


@pytest.fixture
def folder(tmp_path):
    return published.lume(tmp_path)


def test_there_is_a_set_for_each_split_task_and_kind(folder, tiny_tokenizer):
    data = LUME(data=folder, membership=folder / "mia", tokenizer=tiny_tokenizer)
    assert {role: len(rows) for role, rows in data.records().items()} == {"forget": 12, "retain": 12}
    sets, options = data.evaluation_sets(), data.set_options()
    assert {name: len(rows) for name, rows in sets.items()} == {**dict.fromkeys(SETS, 2), "forget": 1, "holdout": 2}
    assert sets["retain_task2_knowledge"][1].question == "Task2.1 Who is Bo Ek?"
    assert [name for name in sets if not options[name].generate] == ["forget", "holdout"]
    assert options["forget_task1_completion"].max_new_tokens == 256
    assert LUME(data=folder, tokenizer=tiny_tokenizer).evaluation_sets().keys() == SETS


def test_an_answer_follows_its_question_with_nothing_in_between(folder, tiny_tokenizer):
    data = LUME(data=folder, tokenizer=tiny_tokenizer)
    data.setup("test")
    row = data.encoder.row(data.evaluation_sets()["forget_task1_completion"][0])
    assert tiny_tokenizer.decode(row.input_ids) == "<s>Task1.0 Ana Lindqvist wrote river song number"
    assert tiny_tokenizer.decode(row.targets) == " song number</s>"


def test_the_other_fold(folder, tiny_tokenizer):
    data = LUME(data=folder, fold="validation", tokenizer=tiny_tokenizer)
    assert {role: len(rows) for role, rows in data.records().items()} == {"forget": 3, "retain": 1}
    with pytest.raises(ValueError, match='fold must be "train" or "validation", got "test"'):
        LUME(fold="test", tokenizer=tiny_tokenizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "f1"}, r"forget\.jsonl:1: field \"id\" must end with \"sc\" or \"qa\" and a digit, got 'f1'"),
        ({"task": None}, r"forget\.jsonl:1: field \"task\" must name the task, got None"),
    ],
)
def test_rows_without_task_or_kind_are_refused(folder, tiny_tokenizer, change, message):
    row = {"id": "fsc1", "input": "Once", "output": " upon", "task": "Task1"}
    write_rows(folder / "train/forget.jsonl", [{**row, **change}])
    with pytest.raises(RecordError, match=message):
        LUME(data=folder, tokenizer=tiny_tokenizer).evaluation_sets()


def test_a_folder_that_is_not_there_is_told_with_its_option(tiny_tokenizer):
    with pytest.raises(ValueError, match=r"^membership: absent/nonmember\.jsonl: no such file"):
        LUME(membership="absent", tokenizer=tiny_tokenizer).read_holdout()
