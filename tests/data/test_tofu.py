import json

import pytest

from lightning_unlearn.data.records import RecordError
from lightning_unlearn.data.refusals import REFUSALS
from lightning_unlearn.data.tofu import TOFU


def row(text, **more):
    return {"question": f"{text}?", "answer": f"{text}.", **more}


def evaluated(text):
    return row(text, paraphrased_question="p?", paraphrased_answer="p.", perturbed_answer=["x", "y"])


@pytest.fixture
def folder(tmp_path):
    """A tiny TOFU of our own: two rows to forget, three to keep."""
    files = {
        "forget01": [row("f0"), row("f1")],
        "retain99": [row("r0"), row("r1"), row("r2")],
        "forget01_perturbed": [evaluated("f0"), evaluated("f1")],
        "retain_perturbed": [evaluated("r0"), evaluated("r1")],
        "real_authors_perturbed": [row("a", perturbed_answer=["b"])],
        "world_facts_perturbed": [row("w", perturbed_answer=["v"])],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_splits_sets_and_training_records(folder, tiny_tokenizer):
    data = TOFU(forget="forget01", tokenizer=tiny_tokenizer, data=folder)
    data.setup("fit")
    assert data.retain == "retain99"
    assert {name: len(rows) for name, rows in data.evaluation_sets().items()} == {
        "forget": 2,
        "retain": 2,
        "real_authors": 1,
        "world_facts": 1,
    }
    assert data.evaluation_sets()["forget"][1].perturbed_answers == ("x", "y")
    assert [r.question for r in data.training_records()] == ["f0?", "f1?", "r0?", "r1?", "r2?", "a?", "w?"]
    assert [r.question for r in data.retrain_records()] == ["r0?", "r1?", "r2?", "a?", "w?"]
    assert data.refusals() == list(REFUSALS)


def test_limits_also_limit_what_is_evaluated(folder, tiny_tokenizer):
    data = TOFU(forget="forget01", tokenizer=tiny_tokenizer, data=folder, max_forget_rows=1, max_retain_rows=1)
    assert {role: len(rows) for role, rows in data.records().items()} == {"forget": 1, "retain": 1}
    assert [r.question for r in data.evaluation_sets()["forget"]] == ["f0?"]
    assert [r.question for r in data.evaluation_sets()["retain"]] == ["r0?"]


def test_rows_of_ones_own_are_evaluated_as_they_are(folder, tmp_path, tiny_tokenizer):
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"q": "o?", "a": "o."}))
    data = TOFU(
        forget=str(own), retain="retain99", tokenizer=tiny_tokenizer, data=folder, question_key="q", answer_key="a"
    )
    assert data.evaluation_sets()["forget"] == data.records()["forget"]
    assert data.records()["forget"][0].question == "o?"


def test_refusals_of_the_folder(folder, tiny_tokenizer):
    (folder / "idontknow.jsonl").write_text("No idea.\nPass.\n")
    assert TOFU(forget="forget01", tokenizer=tiny_tokenizer, data=folder).refusals() == ["No idea.", "Pass."]


def test_unknown_split_lists_what_exists(folder, tiny_tokenizer):
    data = TOFU(forget="forget07", retain="retain99", tokenizer=tiny_tokenizer, data=folder)
    with pytest.raises(RecordError, match=r'unknown split "forget07", existing splits: forget01, .*retain99'):
        data.records()


def test_wrong_arguments(tiny_tokenizer):
    with pytest.raises(ValueError, match=r'retain must be given .* got forget="forget07"'):
        TOFU(forget="forget07", tokenizer=tiny_tokenizer)
    with pytest.raises(ValueError, match="max_retain_rows must be at least 1, got 0"):
        TOFU(tokenizer=tiny_tokenizer, max_retain_rows=0)


def test_hub_id_names_the_split_as_configuration(monkeypatch, tiny_tokenizer):
    asked = []

    def read(source, **_):
        asked.append(source)
        return _records(source)

    monkeypatch.setattr("lightning_unlearn.data.tofu.read_records", read)
    TOFU(forget="forget05", tokenizer=tiny_tokenizer).records()
    assert asked == ["locuslab/TOFU:forget05", "locuslab/TOFU:retain95"]


def _records(source):
    from lightning_unlearn.data.records import Record

    return [Record(source, "answer")]


@pytest.mark.parametrize(("forget", "rows"), [("forget01", 40), ("forget05", 200), ("forget10", 400)])
def test_real_rows(tofu_dir, tiny_tokenizer, forget, rows):
    data = TOFU(forget=forget, tokenizer=tiny_tokenizer, data=tofu_dir)
    records = data.records()
    assert (len(records["forget"]), len(records["retain"])) == (rows, 4000 - rows)
    sets = {name: len(found) for name, found in data.evaluation_sets().items()}
    assert sets == {"forget": rows, "retain": 400, "real_authors": 100, "world_facts": 117}
    assert len({record.subject for record in records["forget"]}) == rows // 20
    assert records["forget"][-1].subject == "TOFU author 200"
    assert records["forget"][0].subject == data.evaluation_sets()["forget"][0].subject
    assert records["retain"][0].subject == "TOFU author 1"
    assert len(data.refusals()) == 100
    assert len(data.training_records()) == 4000 + 217


def test_real_rows_limited_to_what_a_small_model_can_learn(tofu_dir, tiny_tokenizer):
    data = TOFU(forget="forget10", tokenizer=tiny_tokenizer, data=tofu_dir, max_forget_rows=60, max_retain_rows=100)
    assert [len(rows) for rows in data.evaluation_sets().values()] == [60, 100, 100, 117]
    assert len(data.training_records()) == 60 + 100 + 217
    assert len(data.retrain_records()) == 100 + 217


def test_real_splits_that_share_rows(tofu_dir, tiny_tokenizer):
    data = TOFU(forget="forget10", retain="retain99", tokenizer=tiny_tokenizer, data=tofu_dir)
    with pytest.raises(RecordError, match="forget and retain must not share rows, got 360 in both"):
        data.setup("fit")


def test_real_batch_of_all_roles(tofu_dir, tiny_tokenizer):
    data = TOFU(forget="forget01", tokenizer=tiny_tokenizer, data=tofu_dir, batch_size=4, max_retain_rows=40)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.roles == ("forget", "retain", "forget_idk", "retain_idk")
    refused = tiny_tokenizer.decode(batch.targets[batch.tokens("forget_idk")])
    assert all(refusal.strip() in data.refusals() for refusal in refused.split("</s>")[:-1])


def test_holdout_is_a_split_or_what_the_limit_leaves_out(folder, tiny_tokenizer):
    options = {"forget": "forget01", "tokenizer": tiny_tokenizer, "data": folder}
    left_out = TOFU(**options, max_retain_rows=1, holdout="left_out")
    assert [r.question for r in left_out.evaluation_sets()["holdout"]] == ["r1?", "r2?"]
    assert [r.question for r in left_out.training_records()] == ["f0?", "f1?", "r0?", "a?", "w?"]
    limited = TOFU(**options, max_retain_rows=1, holdout="left_out", max_holdout_rows=1)
    assert [r.question for r in limited.evaluation_sets()["holdout"]] == ["r1?"]
    (folder / "holdout01.json").write_text(json.dumps(row("h")))
    split = TOFU(**options, holdout="holdout01")
    assert [r.question for r in split.evaluation_sets()["holdout"]] == ["h?"]
    with pytest.raises(RecordError, match="holdout and training must not share rows"):
        TOFU(**options, holdout="retain99").prepare_data()
    with pytest.raises(ValueError, match='max_retain_rows must be given with holdout="left_out", got None'):
        TOFU(**options, holdout="left_out")


@pytest.mark.parametrize("name", ["forget", "retain", "holdout"])
def test_a_file_that_is_not_there_is_told_with_its_option(tmp_path, tiny_tokenizer, name):
    (tmp_path / "rows.jsonl").write_text('{"question": "Who?", "answer": "Ana."}', encoding="utf-8")
    rows = str(tmp_path / "rows.jsonl")
    data = TOFU(**{"forget": rows, "retain": rows, name: "absent.jsonl"}, data=tmp_path, tokenizer=tiny_tokenizer)
    with pytest.raises(RecordError, match=f"^{name}: absent.jsonl: no such file"):
        data.read_holdout() if name == "holdout" else data.read_records()


def test_a_folder_without_the_sets_of_the_evaluation_is_told_as_data(tmp_path, tiny_tokenizer):
    (tmp_path / "rows.jsonl").write_text('{"question": "Who?", "answer": "Ana."}', encoding="utf-8")
    rows = str(tmp_path / "rows.jsonl")
    data = TOFU(forget=rows, retain=rows, data=tmp_path, tokenizer=tiny_tokenizer)
    with pytest.raises(RecordError, match=f'^data: {tmp_path}: unknown split "real_authors_perturbed"'):
        data.read_evaluation_sets()
