import json

import pytest

from lightning_unlearn.data.readers import read_lines, read_records, read_subset
from lightning_unlearn.data.records import Record, RecordError
from tests.published import write_files, write_rows

ROWS = [{"question": f"Q{i}?", "answer": f"A{i}."} for i in range(3)]


def test_json_lines_are_numbered_by_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(map(json.dumps, ROWS)) + "\n", encoding="utf-8")
    records = read_records(path)
    assert [record.answer for record in records] == ["A0.", "A1.", "A2."]
    assert [record.source for record in records] == [f"{path}:1", f"{path}:3", f"{path}:5"]


def test_json_array_and_byte_order_mark(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("\n " + json.dumps(ROWS, indent=1), encoding="utf-8-sig")
    assert [record.source for record in read_records(str(path))] == [f"{path}:1", f"{path}:2", f"{path}:3"]


def test_rows_in_memory():
    ready = Record("Q", "A")
    assert read_records([ready, ROWS[0]], name="retain") == [ready, Record("Q0?", "A0.", source="retain:2")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "Q", "answer": "A"}\n{"question": "Q", "answer"', r"rows.jsonl:2: wrong JSON, .* at column \d+"),
        ('[{"question": "Q",\n]', r"rows.jsonl:2: wrong JSON array"),
        ('{"question": "Q", "answer": ""}', r'rows.jsonl:1: field "answer" must not be empty'),
        ("\n \n", r"rows.jsonl: must hold at least one row, got none"),
        ("[]", r"rows.jsonl: must hold at least one row, got none"),
        ("3", r"rows.jsonl:1: a row must be an object"),
    ],
)
def test_wrong_files_name_file_and_row(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match=message):
        read_records(path)


def test_not_utf8(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"question": "caf\xe9"}')
    with pytest.raises(RecordError, match=r"rows.jsonl: must be UTF-8 text"):
        read_records(path)


def test_missing_file(tmp_path):
    with pytest.raises(RecordError, match=r"none.jsonl: no such file"):
        read_records(tmp_path / "none.jsonl")


def test_unreachable_hub_id_says_which(monkeypatch):
    with pytest.raises(RecordError, match=r'configuration "forget01" of dataset "nobody/nothing" could not be loaded'):
        read_records("nobody/nothing:forget01")


def test_saved_datasets_and_their_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict(
        {"seen": datasets.Dataset.from_list(ROWS), "unseen": datasets.Dataset.from_list(ROWS[:1])}
    ).save_to_disk(tmp_path / "two")
    assert len(read_records(tmp_path / "two", split="seen")) == 3
    assert read_records(tmp_path / "two", split="unseen")[0].source == f"{tmp_path / 'two'}:unseen:1"
    with pytest.raises(RecordError, match=r'unknown split "train", existing splits: seen, unseen'):
        read_records(tmp_path / "two")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert len(read_records(str(tmp_path / "one"))) == 3
    with pytest.raises(RecordError, match=r'unknown split "test"'):
        read_records(tmp_path / "one", split="test")


def test_a_hub_id_carries_configuration_and_split(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, config):
        asked.append((name, config))
        return datasets.DatasetDict(
            {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS)}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_records("owner/name:small:test")[0].source == "owner/name:small:test:1"
    assert read_records("owner/name")[2].source == "owner/name:train:3"
    assert asked == [("owner/name", "small"), ("owner/name", None)]
    with pytest.raises(RecordError, match=r'owner/name:small: unknown split "dev", existing splits: train, test'):
        read_records("owner/name:small:dev")


def test_real_tofu_rows(tofu_dir):
    assert len(read_records(tofu_dir / "full.json")) == 4000
    perturbed = read_records(tofu_dir / "forget10_perturbed.json")
    assert all(len(record.perturbed_answers) == 5 and record.paraphrased_question for record in perturbed)


def test_parquet_is_read_as_it_is(tmp_path):
    write_rows(
        tmp_path / "rows.parquet", [{"question": "Who?", "answer": "Ana."}, {"question": "Where?", "answer": "No."}]
    )
    assert read_records(tmp_path / "rows.parquet")[1] == Record("Where?", "No.", source=f"{tmp_path}/rows.parquet:2")
    (tmp_path / "broken.parquet").write_text("no")
    with pytest.raises(RecordError, match=r"broken\.parquet: must be Parquet, got"):
        read_records(tmp_path / "broken.parquet")


def test_a_split_of_a_subset_is_found_in_a_folder(tmp_path):
    files = {
        "raw/forget-00000-of-00002.parquet": [{"n": 1}],
        "raw/forget-00001-of-00002.parquet": [{"n": 2}],
        "raw/forget_qa.json": [{"n": 3}],
        "level.jsonl": [{"n": 4}],
        "data/train.json": [{"n": 5}],
    }
    write_files(tmp_path, files)

    def found(*names):
        return [row["n"] for _, row in read_subset(tmp_path, *names)]

    assert found("raw", "forget") == [1, 2]
    assert found("raw", "forget_qa") == [3]
    assert found("level", "test") == [4]
    assert found("", "train") == [5]
    with pytest.raises(
        RecordError, match=r'no file of split "test" of subset "raw", got data/train.json, level.jsonl, '
    ):
        read_subset(tmp_path, "raw", "test")
    with pytest.raises(RecordError, match=r'no file of split "test", got'):
        read_subset(tmp_path, "", "test")


def test_a_subset_that_is_no_folder_is_asked_of_the_hub(monkeypatch):
    asked = []

    def load(identifier, config):
        asked.append((identifier, config))
        return {"train": [{"n": 1}], "test": [{"n": 2}]}

    monkeypatch.setattr("datasets.load_dataset", load)
    assert read_subset("some/data", "raw", "test") == [("some/data:raw:test:1", {"n": 2})]
    assert read_subset("some/data", "", "train") == [("some/data:train:1", {"n": 1})]
    assert asked == [("some/data", "raw"), ("some/data", None)]


def test_what_cannot_be_read_is_told_with_the_argument_that_gave_it(tmp_path):
    with pytest.raises(RecordError, match=r"^retain: .*none\.jsonl: no such file$"):
        read_records(tmp_path / "none.jsonl", name="retain")
    with pytest.raises(RecordError, match=r'^retain: dataset "nobody/nothing" could not be loaded'):
        read_records("nobody/nothing", name="retain")
    with pytest.raises(RecordError, match=r"^refusals: .*none\.txt: no such file$"):
        read_lines(tmp_path / "none.txt", "refusal", name="refusals")
    with pytest.raises(RecordError, match=r'^data: .*: no file of split "test"'):
        read_subset(tmp_path, "raw", "test")
