import json

import pytest

from lightning_unlearn.data.records import RecordError
from lightning_unlearn.data.unlearning_records import UnlearningRecords


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_own_files_with_own_keys(tmp_path, tiny_tokenizer):
    forget = write(tmp_path / "f.jsonl", [{"prompt": "Who?", "completion": "Ana."}])
    retain = write(tmp_path / "r.jsonl", [{"prompt": "Where?", "completion": "Here."}, {"text": "Plain."}])
    world = write(tmp_path / "w.jsonl", [{"prompt": "2+2?", "completion": "4", "perturbed_answer": ["5"]}])
    data = UnlearningRecords(
        forget=forget,
        retain=str(retain),
        evaluation={"world_facts": world},
        tokenizer=tiny_tokenizer,
        question_key="prompt",
        answer_key="completion",
    )
    data.setup("fit")
    assert data.roles == ("forget", "retain", "forget_idk", "retain_idk", "forget_random", "forget_unanswerable")
    assert {name: len(rows) for name, rows in data.evaluation_sets().items()} == {
        "forget": 1,
        "retain": 2,
        "world_facts": 1,
    }
    assert [record.answer for record in data.training_records()] == ["Ana.", "Here.", "Plain.", "4"]
    assert [record.answer for record in data.retrain_records()] == ["Here.", "Plain.", "4"]


def test_without_retain(tiny_tokenizer):
    data = UnlearningRecords(forget=[{"text": "Gone."}], tokenizer=tiny_tokenizer, refusals=[])
    data.setup("fit")
    assert data.roles == ("forget", "forget_unanswerable")
    assert next(iter(data.train_dataloader())).roles == ("forget",)


def test_a_row_in_both_is_an_error_before_training(tmp_path, tiny_tokenizer):
    forget = write(tmp_path / "f.jsonl", [{"question": "Who?", "answer": "Ana."}])
    retain = write(
        tmp_path / "r.jsonl", [{"question": "Why?", "answer": "So."}, {"question": "who?", "answer": "Ana. "}]
    )
    data = UnlearningRecords(forget=forget, retain=retain, tokenizer=tiny_tokenizer)
    with pytest.raises(RecordError, match=r"f.jsonl:1 is also .*r.jsonl:2"):
        data.setup("fit")


def test_misspelt_options_are_refused(tiny_tokenizer):
    with pytest.raises(TypeError, match="batchsize"):
        UnlearningRecords(forget=[{"text": "x"}], tokenizer=tiny_tokenizer, batchsize=3)


def test_holdout_is_evaluated_and_never_trained_on(tmp_path, tiny_tokenizer):
    rows = {name: [{"question": f"{name}?", "answer": f"{name}."}] for name in ("forget", "retain", "holdout")}
    data = UnlearningRecords(**rows, tokenizer=tiny_tokenizer)
    data.setup("fit")
    assert [record.answer for record in data.evaluation_sets()["holdout"]] == ["holdout."]
    assert "holdout" not in data.roles
    assert [record.answer for record in data.training_records()] == ["forget.", "retain."]
    assert [record.answer for record in data.retrain_records()] == ["retain."]
    card = data.fingerprint()
    assert card.keys() == {"forget", "retain", "holdout"}
    assert card["holdout"]["rows"] == 1
    without = UnlearningRecords(forget=rows["forget"], retain=rows["retain"], tokenizer=tiny_tokenizer)
    assert "holdout" not in without.evaluation_sets()
    assert without.fingerprint() == {role: card[role] for role in ("forget", "retain")}


def test_a_holdout_row_that_is_trained_on_is_an_error(tiny_tokenizer):
    row = {"question": "Who?", "answer": "Ana."}
    other = {"question": "Why?", "answer": "So."}
    for rows in ({"forget": [row], "retain": [other]}, {"forget": [other], "retain": [row]}):
        data = UnlearningRecords(**rows, holdout=[row], tokenizer=tiny_tokenizer)
        with pytest.raises(RecordError, match=r"holdout and training must not share rows, got 1 in both .*Who\?"):
            data.prepare_data()
    facts = UnlearningRecords(
        forget=[other], evaluation={"world_facts": [row]}, holdout=[row], tokenizer=tiny_tokenizer
    )
    with pytest.raises(RecordError, match="holdout and training must not share rows"):
        facts.prepare_data()


def test_holdout_stays_through_a_sequence_of_requests(tiny_tokenizer):
    rows = [{"question": f"{i}?", "answer": f"{i}."} for i in range(3)]
    data = UnlearningRecords(forget=rows[:2], holdout=rows[2:], request_rows=1, request=2, tokenizer=tiny_tokenizer)
    assert {name: [r.answer for r in found] for name, found in data.evaluation_sets().items()} == {
        "forget": ["1."],
        "forgotten_1": ["0."],
        "holdout": ["2."],
    }


@pytest.mark.parametrize("name", ["forget", "retain", "holdout", "evaluation.facts"])
def test_a_file_that_is_not_there_is_told_with_its_option(tmp_path, tiny_tokenizer, name):
    rows = [{"question": "Who?", "answer": "Ana."}]
    absent = str(tmp_path / "absent.jsonl")
    given = {"evaluation": {"facts": absent}} if "." in name else {name: absent}
    with pytest.raises(RecordError, match=f"^{name}: .*absent.jsonl: no such file"):
        UnlearningRecords(**{"forget": rows, **given}, tokenizer=tiny_tokenizer).prepare_data()
