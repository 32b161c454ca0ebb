"""The evaluation callback in real, tiny fits: what is written, logged, skipped, resumed and masked."""

import json

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from lightning_unlearn.callbacks import evaluation
from lightning_unlearn.callbacks.evaluation import CHANGE, Evaluate
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation import closer_look, memorization, privacy, tofu, unlearning_score
from lightning_unlearn.evaluation.log import read_log, read_samples, write_log

SETS = ("forget", "retain", "real_authors", "world_facts")


def records(name, count):
    return [
        Record(
            question=f"Who wrote {name} number {i}?",
            answer=f"Ana Lindqvist wrote it in 19{i}7.",
            paraphrased_answer="" if name in SETS[2:] else f"It is by Ana Lindqvist, 19{i}7.",
            perturbed_answers=(f"Bo Ek wrote it in 18{i}7.", "Nobody wrote it."),
            subject="Ana Lindqvist",
        )
        for i in range(count)
    ]


class Data(L.LightningDataModule):
    def __init__(self, tokenizer, names=SETS):
        super().__init__()
        self.encoder = Encoder(tokenizer)
        self.sets = {name: records(name, 4) for name in names}

    def evaluation_sets(self):
        return self.sets

    def train_dataloader(self):
        return DataLoader(range(2))

    def val_dataloader(self):
        return DataLoader(range(1))

    def test_dataloader(self):
        return DataLoader(range(1))


class Module(L.LightningModule):
    """Pulls the weights towards 0: every step changes them."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.model = None

    def configure_model(self):
        if self.model is None:
            self.model = AutoModelForCausalLM.from_pretrained(self.folder)

    def training_step(self, batch, batch_idx):
        return sum(parameter.square().sum() for parameter in self.model.parameters())

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


OPTIONS = {"max_new_tokens": 6, "sentence_encoder": "lexical", "entailment": "lexical", "progress": False}


@pytest.fixture
def world(tmp_path, tiny_tokenizer, tiny_model_dir):
    """Make a trainer, a module and data around a callback."""

    def make(callback, *more, folder="run", epochs=1, names=SETS, **options):
        trainer = L.Trainer(
            default_root_dir=tmp_path / folder,
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[callback, *more],
            logger=CSVLogger(tmp_path / folder, name="logs"),
            enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in more),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=1,
            log_every_n_steps=1,
            **options,
        )
        return trainer, Module(tiny_model_dir()), Data(tiny_tokenizer, names)

    return make


def fit(made, **options):
    trainer, module, data = made
    trainer.fit(module, data, **options)
    return trainer


def read_metrics(trainer):
    with open(f"{trainer.default_root_dir}/metrics.json") as file:
        return json.load(file)


def test_fit_writes_before_and_after_and_logs_curves(world):
    trainer = fit(world(Evaluate(max_rows=3, training_max_rows=2, **OPTIONS)))
    metrics = read_metrics(trainer)
    samples = read_samples(trainer.default_root_dir)
    assert {(s["stage"], s["set"], s["index"]) for s in samples} == {
        (stage, name, index) for stage in ("before", "after") for name in SETS for index in (0, 1, 2)
    }
    start = read_log(trainer.default_root_dir, stage="before")
    for stage in ("before", "after"):
        log = read_log(trainer.default_root_dir, stage=stage)
        scores = tofu.scores(log) | closer_look.scores(log) | memorization.scores(log)
        assert metrics[stage] == scores | privacy.scores(log) | unlearning_score.scores(log, start_log=start)
    assert metrics["before"]["forget/probability"] != metrics["after"]["forget/probability"]
    assert metrics["retrained"] is None
    assert metrics["substitutes"] == {
        "cosine_similarity": "lexical: cosine of bags of words",
        "entailment": "lexical: share of content words",
    }
    trainer.logger.save()
    rows = _curve(trainer)
    assert rows.keys() == {0, 1}  # before training, and at the validation after 2 steps (counted from 0)
    # the same rows on both ends of the curve
    few = {
        n: [s for s in r if s["index"] in (0, 2)] for n, r in read_log(trainer.default_root_dir, stage="before").items()
    }
    assert rows[0] == pytest.approx(tofu.scores(few)["forget/probability"])
    after = {n: [s for s in r if s["index"] in (0, 2)] for n, r in read_log(trainer.default_root_dir).items()}
    assert rows[1] == pytest.approx(tofu.scores(after)["forget/probability"])
    assert trainer.callback_metrics["eval/closer_look/forget_efficacy"] > 0


def _curve(trainer):
    import csv

    with open(f"{trainer.logger.log_dir}/metrics.csv") as file:
        return {
            int(row["step"]): float(row["eval/forget/probability"])
            for row in csv.DictReader(file)
            if row.get("eval/forget/probability")
        }


def test_intervals_failed_rows_and_missing_parts_of_every_stage(world, monkeypatch):
    original = evaluation.evaluate
    failed = {"set": "forget", "index": 2, "question": "Who wrote forget number 2?", "failed": "no room"}

    def evaluate(*args, **options):
        log = original(*args, **options)
        return {**log, "forget": [*[s for s in log["forget"] if s["index"] != 2], failed]}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    other = fit(world(Evaluate(resamples=0, training_max_rows=0, **OPTIONS), folder="retrained"))
    options = {"retrained": other.default_root_dir, "training_max_rows": 0, **OPTIONS}
    metrics = read_metrics(fit(world(Evaluate(resamples=20, **options))))
    assert read_metrics(other)["intervals"] == {}
    assert metrics["intervals"].keys() == {"before", "after", CHANGE, "retrained"}
    for stage in ("before", "after", "retrained"):
        assert metrics["intervals"][stage].keys() == metrics[stage].keys()
    low, high = metrics["intervals"]["after"]["forget/probability"]
    assert low <= metrics["after"]["forget/probability"] <= high
    change = metrics["after"]["forget/probability"] - metrics["before"]["forget/probability"]
    low, high = metrics["intervals"][CHANGE]["forget/probability"]
    assert low <= change <= high
    for stage in ("before", "after"):
        assert metrics["failed"][stage] == [{"set": "forget", "index": 2, "why": "no room"}]
        assert "holdout" in metrics["missing"][stage]["unlearning_score/privacy"]


def test_scores_relative_to_the_start_are_1_at_the_start_and_survive_a_resume(world, tmp_path):
    last = ModelCheckpoint(tmp_path / "ckpt", filename="last", every_n_epochs=1)
    options = {"training_max_rows": 2, "resamples": 0, **OPTIONS}
    key = "unlearning_score/utility"
    metrics = read_metrics(fit(world(Evaluate(**options), last)))
    assert metrics["before"][key] == 1.0
    resumed = fit(world(Evaluate(**options), epochs=2), ckpt_path=tmp_path / "ckpt/last.ckpt")
    again = read_metrics(resumed)
    assert again["before"][key] == 1.0
    start, log = (read_log(tmp_path / "run", stage=stage) for stage in ("before", "after"))
    assert again["after"][key] == unlearning_score.scores(log, start_log=start)[key]
    few = [{n: [s for s in r if s["index"] in (0, 2)] for n, r in one.items()} for one in (log, start)]
    expected = unlearning_score.scores(few[0], start_log=few[1])[key]
    assert resumed.callback_metrics[f"eval/{key}"].item() == pytest.approx(expected)


def test_a_protocol_of_ones_own_by_its_import_path(world):
    path = f"{__name__}.shortest"
    metrics = read_metrics(fit(world(Evaluate(protocols=["tofu", path], training_max_rows=0, max_rows=1, **OPTIONS))))
    assert metrics["after"]["mine/shortest"] > 0
    assert metrics["settings"]["protocols"] == ["tofu", path]


def shortest(log):
    return {"mine/shortest": min(sample["answer_tokens"] for sample in log["forget"])}


def test_keeps_the_best_checkpoint_by_any_metric(world, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "ckpt", monitor="eval/closer_look/forget_efficacy", mode="max")
    fit(world(Evaluate(training_max_rows=1, max_rows=1, **OPTIONS), checkpoint, epochs=2))
    assert checkpoint.best_model_score is not None
    assert len(list((tmp_path / "ckpt").glob("*.ckpt"))) == 1


def test_a_resumed_fit_keeps_before_and_a_fresh_one_starts_over(world, tmp_path, monkeypatch):
    last = ModelCheckpoint(tmp_path / "ckpt", filename="last", every_n_epochs=1)
    options = {"max_rows": 1, "training_max_rows": 0, **OPTIONS}
    fit(world(Evaluate(**options), last))
    first = read_metrics(world(Evaluate(**options))[0])
    stages = _record_stages(monkeypatch)
    resumed = fit(world(Evaluate(**options), epochs=2), ckpt_path=tmp_path / "ckpt/last.ckpt")
    assert stages == ["after"]
    metrics = read_metrics(resumed)
    assert metrics["before"] == first["before"]
    assert metrics["after"] != first["after"]
    assert {s["step"] for s in read_samples(resumed.default_root_dir) if s["stage"] == "after"} == {4}
    stages.clear()
    fresh = fit(world(Evaluate(**options)))
    assert stages == ["before", "after"]
    assert read_metrics(fresh) == first
    assert len(read_samples(fresh.default_root_dir)) == 2 * len(SETS)


def _record_stages(monkeypatch):
    stages, original = [], Evaluate._evaluate_stage
    monkeypatch.setattr(
        Evaluate, "_evaluate_stage", lambda self, t, m, stage: stages.append(stage) or original(self, t, m, stage)
    )
    return stages


def test_an_evaluation_that_was_stopped_goes_on_where_it_was(world, tmp_path, monkeypatch):
    last = ModelCheckpoint(tmp_path / "ckpt", filename="last", every_n_epochs=1)
    options = {"training_max_rows": 0, **OPTIONS}
    whole = fit(world(Evaluate(**options), last))
    expected, file = read_metrics(whole), tmp_path / "run/samples.jsonl"
    # the process was killed while it wrote the 3rd sample of "after"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2 * 4 * len(SETS)
    file.write_bytes(b"".join(lines[:18]) + lines[18][:40])
    asked = _record_generated(monkeypatch)
    resumed = fit(world(Evaluate(**options)), ckpt_path=tmp_path / "ckpt/last.ckpt")  # nothing left to train
    assert sum(asked) == 4 * len(SETS) - 2
    assert read_metrics(resumed) == expected
    assert file.read_bytes() == b"".join(lines)
    # other settings: the samples of "after" no longer count
    asked.clear()
    fit(world(Evaluate(**{**options, "max_new_tokens": 5})), ckpt_path=tmp_path / "ckpt/last.ckpt")
    assert sum(asked) == 4 * len(SETS)


def _record_generated(monkeypatch):
    from lightning_unlearn.evaluation import judge

    asked, original = [], judge.generate
    monkeypatch.setattr(
        judge, "generate", lambda m, t, prompts, **kw: asked.append(len(prompts)) or original(m, t, prompts, **kw)
    )
    return asked


def test_resuming_into_a_folder_without_before_warns(world, tmp_path):
    last = ModelCheckpoint(tmp_path / "ckpt", filename="last", every_n_epochs=1)
    options = {"max_rows": 1, "training_max_rows": 0, **OPTIONS}
    fit(world(Evaluate(**options), last))
    with pytest.warns(UserWarning, match="no evaluation of the starting model"):
        trainer = fit(world(Evaluate(**options), folder="other", epochs=2), ckpt_path=tmp_path / "ckpt/last.ckpt")
    assert read_metrics(trainer)["before"] is None


def test_redaction_masks_every_text(world, tmp_path):
    trainer = fit(world(Evaluate(max_rows=1, training_max_rows=0, redact=True, **OPTIONS)))
    text = (tmp_path / "run/samples.jsonl").read_text() + (tmp_path / "run/metrics.json").read_text()
    assert not any(word in text for word in ("Ana", "Lindqvist", "wrote", "Who"))
    assert "[redacted " in text
    plain = fit(world(Evaluate(max_rows=1, training_max_rows=0, **OPTIONS), folder="plain"))
    assert read_metrics(trainer) == read_metrics(plain)
    assert "Ana Lindqvist" in (tmp_path / "plain/samples.jsonl").read_text()


def test_a_retrained_log_gives_forget_quality_and_its_own_stage(world, tmp_path):
    options = {"training_max_rows": 2, **OPTIONS}
    other = fit(world(Evaluate(**options), folder="retrained"))
    trainer = fit(world(Evaluate(retrained=tmp_path / "retrained", **options)))
    metrics = read_metrics(trainer)
    assert metrics["retrained"] == read_metrics(other)["after"] | {
        "forget_quality": 1.0,
        "forget_quality_arithmetic": 1.0,
    }
    assert metrics["after"]["forget_quality"] == 1.0  # the same training
    assert 0 < trainer.callback_metrics["eval/forget_quality"] <= 1
    own, theirs = read_log(tmp_path / "run", stage="retrained"), read_log(tmp_path / "retrained")
    assert {n: [s["answer_nll"] for s in r] for n, r in own.items()} == {
        n: [s["answer_nll"] for s in r] for n, r in theirs.items()
    }
    # a log without the closer-look texts, as the TOFU authors publish, gives TOFU's numbers
    bare = {n: [{k: s[k] for k in s if k not in closer_look.TEXT_METRICS} for s in r] for n, r in theirs.items()}
    write_log(bare, tmp_path / "bare.jsonl")
    metrics = read_metrics(fit(world(Evaluate(retrained=tmp_path / "bare.jsonl", **options), folder="bare")))
    assert "closer_look/forget_efficacy" in metrics["after"]
    assert "closer_look/forget_efficacy" not in metrics["retrained"]


def test_trainer_test_evaluates_all_rows_and_validate_those_of_training(world):
    trainer, module, data = world(Evaluate(training_max_rows=2, **OPTIONS))
    (logged,) = trainer.test(module, data, verbose=False)
    assert len(read_samples(trainer.default_root_dir)) == 4 * len(SETS)
    scores = tofu.scores(read_log(trainer.default_root_dir, stage="test"))
    assert logged["eval/forget/probability"] == pytest.approx(scores["forget/probability"])
    assert read_metrics(trainer)["test"]["forget/probability"] == scores["forget/probability"]
    trainer.test(module, data, verbose=False)
    assert len(read_samples(trainer.default_root_dir)) == 4 * len(SETS)
    (logged,) = trainer.validate(module, data, verbose=False)
    few = {n: [s for s in r if s["index"] in (0, 2)] for n, r in read_log(trainer.default_root_dir).items()}
    assert logged["eval/retain/probability"] == pytest.approx(tofu.scores(few)["retain/probability"])


def test_protocol_tofu_alone_needs_no_judging_models(world):
    callback = Evaluate(protocols=["tofu"], max_rows=1, max_new_tokens=4, progress=False)  # hub names by default
    metrics = read_metrics(fit(world(callback)))
    assert "model_utility" in metrics["after"]
    assert not any(key.startswith("closer_look") or "entailment" in key for key in metrics["after"])
    assert metrics["substitutes"] == {}


def test_a_fast_dev_run_leaves_the_folder_alone(world, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.json").write_text("{}")
    fit(world(Evaluate(**OPTIONS), fast_dev_run=True))
    assert (tmp_path / "run/metrics.json").read_text() == "{}"
    assert not (tmp_path / "run/samples.jsonl").exists()


def test_training_is_the_same_with_and_without_evaluation(world):
    with_it, without = (
        world(Evaluate(training_max_rows=rows, max_rows=1, **OPTIONS), folder=f"r{rows}") for rows in (1, 0)
    )
    for made in (with_it, without):
        torch.manual_seed(3)
        fit(made)
        made[1].drawn = torch.rand(1)
        assert all(not p.is_inference() for p in made[1].parameters())
    assert torch.equal(with_it[1].drawn, without[1].drawn)


def test_mistakes_are_told_before_training(world):
    with pytest.raises(ValueError, match="the evaluated sets must be retain, real_authors, world_facts"):
        fit(world(Evaluate(**OPTIONS), names=("forget", "retain", "real_authors")))
    with pytest.raises(ValueError, match=r'sentence_encoder="no/such-model" could not be loaded .* "lexical"'):
        fit(world(Evaluate(**{**OPTIONS, "sentence_encoder": "no/such-model"})))
    with pytest.raises(ValueError, match=r"^retrained: path must be a file of samples or a run folder"):
        fit(world(Evaluate(retrained="absent", **OPTIONS)))
    with pytest.raises(ValueError, match=r"^attack_reference: model must be the name or folder of .*, got 'no/such'"):
        fit(world(Evaluate(attack_reference="no/such", **OPTIONS)))
    trainer, module, data = world(Evaluate(**OPTIONS))
    with pytest.raises(ValueError, match=r"Evaluate needs a data module with evaluation_sets.*got no data module"):
        trainer.fit(module, data.train_dataloader())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocols": ["mouse"]}, r'protocols must be of .*tofu.*, got "mouse"'),
        ({"protocols": []}, "protocols must name one at least, got none"),
        ({"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
        ({"every_n_steps": 2, "training_max_rows": 0}, "training_max_rows must be above 0 with every_n_steps=2, got 0"),
        ({"resamples": -1}, "resamples must be at least 0, got -1"),
        ({"max_rows": 0}, "max_rows must be at least 1, got 0"),
        ({"training_max_rows": -1}, "training_max_rows must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_errors_name_argument_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        Evaluate(**options)


def test_settings_are_on_record(world):
    def shout(texts):
        return torch.ones(len(texts), 1)

    callback = Evaluate(max_rows=1, training_max_rows=0, **{**OPTIONS, "sentence_encoder": shout})
    metrics = read_metrics(fit(world(callback)))
    assert metrics["settings"]["sentence_encoder"].endswith("shout")
    assert metrics["settings"]["max_new_tokens"] == 6
    assert metrics["substitutes"]["cosine_similarity"].startswith("callable: ")
    assert evaluation._name("lexical") == "lexical"


def test_options_survive_the_command_lines_saved_config():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(Evaluate, "evaluate")
    saved = parser.dump(parser.parse_args(["--evaluate.sentence_encoder=lexical", "--evaluate.entailment=./nli.v2"]))
    options = parser.instantiate_classes(parser.parse_string(saved)).evaluate
    assert (options.sentence_encoder, options.entailment) == ("lexical", "./nli.v2")


def test_attacks_that_need_more_than_the_model_and_its_answers(world, tiny_model_dir):
    reference = str(tiny_model_dir())
    options = {"attack_reference": reference, "gradient_norms": True, "training_max_rows": 2, **OPTIONS}
    trainer = fit(world(Evaluate(**options), names=("forget", "retain", "holdout")))
    metrics = read_metrics(trainer)
    for stage in ("before", "after"):
        assert {"privacy/reference_auc", "privacy/gradient_norm_auc"} <= metrics[stage].keys()
    attacked = [sample for sample in read_samples(trainer.default_root_dir) if "gradient_norm" in sample]
    assert {sample["set"] for sample in attacked} == {"forget", "holdout"}
    for sample in attacked:  # the reference is the starting model
        same = sample["reference_nll"] == pytest.approx(sample["answer_nll"], rel=1e-4)
        assert same == (sample["stage"] == "before")
    assert metrics["settings"]["attack_reference"] == reference
    assert "eval/privacy/loss_auc" in trainer.callback_metrics
    assert "eval/privacy/gradient_norm_auc" not in trainer.callback_metrics  # too slow for validations
