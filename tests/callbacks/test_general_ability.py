from __future__ import annotations

import json
import random
from pathlib import Path

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from lightning_unlearn.callbacks.evaluation import Evaluate
from lightning_unlearn.callbacks.general_ability import GeneralAbility
from lightning_unlearn.callbacks.run_folder import RunFolder
from lightning_unlearn.data.unlearning_records import UnlearningRecords
from lightning_unlearn.export import export
from lightning_unlearn.objectives.gradient_ascent import GradientAscent
from lightning_unlearn.trainer_cli import run
from tests.dense import tiny
from tests.quiet import QUIET
from tests.ranks import spawn

pytest.importorskip("lm_eval", reason="lm_eval is not installed")
TASK = """task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def tasks(tmp_path) -> Path:
    """A folder with a task of six rows."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"q": f"Is {i} red?", "choices": ["yes", "no"], "label": i % 2} for i in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "colours.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    return folder


@pytest.mark.slow
def test_starting_and_trained_model_are_evaluated_and_the_report_shows_both(tasks, tmp_path, tiny_tokenizer):
    model = tiny(vocab_size=len(tiny_tokenizer)).float()
    data = UnlearningRecords(forget=[{"question": "Who?", "answer": "Ana."}] * 2, tokenizer=tiny_tokenizer)
    ability = GeneralAbility(tasks=["colours"], include_path=tasks)
    judges = {"sentence_encoder": "lexical", "entailment": "lexical", "max_new_tokens": 2, "progress": False}
    callbacks = [ability, Evaluate(**judges), RunFolder()]
    options = {**QUIET, "max_epochs": 1, "default_root_dir": tmp_path / "run", "callbacks": callbacks}
    state = torch.get_rng_state(), random.getstate()
    found = ability.scores(model, tiny_tokenizer)
    assert found.keys() == {"colours/acc"}
    assert found["colours/acc"] in [i / 6 for i in range(7)]
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    L.Trainer(**options).fit(GradientAscent(model), datamodule=data)
    kept = json.loads((tmp_path / "run/metrics.json").read_text())["general_ability"]
    assert kept["before"] == found
    assert kept["after"] == ability.scores(model, tiny_tokenizer)
    report = (tmp_path / "run/report.html").read_text()
    assert "General ability (lm_eval)" in report
    assert "colours/acc" in report


@pytest.mark.slow
def test_a_task_that_is_not_there_is_named_before_training(tasks, tiny_tokenizer):
    data = UnlearningRecords(forget=[{"question": "Who?", "answer": "Ana."}], tokenizer=tiny_tokenizer)
    trainer = L.Trainer(**QUIET, callbacks=[GeneralAbility(tasks=["colour"], include_path=tasks)])
    with pytest.raises(ValueError, match="tasks must be tasks of lm_eval or in include_path, got colour"):
        trainer.fit(GradientAscent(tiny()), datamodule=data)


def test_arguments_are_checked(monkeypatch, tasks):
    with pytest.raises(ValueError, match="tasks must name one at least, got none"):
        GeneralAbility(tasks=[])
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(ValueError, match="tasks need lm_eval: pip install"):
        GeneralAbility(tasks=["colours"])


@pytest.mark.slow
def test_an_exported_model_is_tested_and_its_samples_kept(tasks, tmp_path, tiny_model_dir):
    start, options = str(tiny_model_dir()), {**QUIET, "max_epochs": 1, "default_root_dir": tmp_path / "run"}
    words = ["--model", "GradientAscent", "--model.model", start, "--data", "FictitiousAuthors"]
    words += ["--data.tokenizer", start, "--data.authors", "2", "--data.forget_authors", "1"]
    trained = ["--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--evaluate.max_rows", "1"]
    judged = ["--evaluate.sentence_encoder", "lexical", "--evaluate.entailment", "lexical"]
    judged += ["--evaluate.max_new_tokens", "2", "--trainer.default_root_dir", str(tmp_path / "run")]
    run(["fit", *words, *trained, *judged])
    exported = export(tmp_path / "run", tmp_path / "exported")

    ability = GeneralAbility(tasks=["colours"], include_path=tasks, keep_samples=True)
    data = UnlearningRecords(forget=[{"question": "Who?", "answer": "Ana."}], tokenizer=exported)
    trainer = L.Trainer(**{**options, "default_root_dir": tmp_path / "test"}, callbacks=[ability])
    trainer.test(GradientAscent(str(exported)), datamodule=data, verbose=False)
    found = json.loads((tmp_path / "test/metrics.json").read_text())["general_ability"]["test"]
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert found == ability.scores(model, data.tokenizer)
    rows = [json.loads(line) for line in (tmp_path / "test/samples_lm_eval_test.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["colours"] * 6
    assert found["colours/acc"] == sum(row["acc"] for row in rows) / 6


def share(folder: Path, tasks: Path, start: Path) -> None:
    """A process of the next test."""
    torch.distributed.init_process_group("gloo")
    asked, forward = [], LlamaForCausalLM.forward
    LlamaForCausalLM.forward = lambda self, *args, **options: (
        asked.append(len(args[0])) or forward(self, *args, **options)
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    found = GeneralAbility(tasks=["colours"], include_path=tasks, batch_size=1).scores(model, tokenizer)
    (folder / f"{torch.distributed.get_rank()}.json").write_text(json.dumps([found, sum(asked)]))


@pytest.mark.slow
def test_processes_share_the_rows(tasks, tmp_path, tiny_model_dir):
    start = tiny_model_dir()
    spawn(2, share, tmp_path, tasks, start)
    (scores, asked), (nothing, also_asked) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    assert scores == GeneralAbility(tasks=["colours"], include_path=tasks, batch_size=1).scores(model, tokenizer)
    assert nothing == {}
    assert asked == also_asked == 6  # three of six rows each, two answers to each


def test_a_sharded_model_is_refused(tasks, monkeypatch):
    monkeypatch.setattr("lightning_unlearn.callbacks.general_ability.is_sharded", lambda model: True)
    module = GradientAscent(tiny())
    for begin in (GeneralAbility.on_fit_begin, GeneralAbility.on_test_epoch_end):
        with pytest.raises(
            ValueError, match="needs a whole model, got a sharded one: export it and run `test` on that"
        ):
            begin(GeneralAbility(tasks=["colours"], include_path=tasks), L.Trainer(**QUIET), module)
