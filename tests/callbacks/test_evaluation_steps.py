"""`Evaluate` at chosen optimiser steps, and by a criterion that Lightning's own callbacks monitor."""

import csv
import json

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_unlearn.callbacks.evaluation import Evaluate
from lightning_unlearn.callbacks.throughput import Throughput
from lightning_unlearn.evaluation.criterion import Criterion
from lightning_unlearn.evaluation.rows import column
from tests.callbacks.test_evaluation import Data, Module
from tests.quiet import QUIET
from tests.ranks import spawn


def surprise(log):
    """A protocol whose scores fall with every step of training, which pulls the predictions towards uniform ones."""
    nll = {name: column(rows, "answer_nll") / column(rows, "answer_tokens") for name, rows in log.items()}
    return {f"{name}/surprise": values.mean().item() for name, values in nll.items()}


STEPS = 4
OPTIONS = {"protocols": ["tofu", f"{__name__}.surprise"], "max_rows": 2, "training_max_rows": 2, "max_new_tokens": 2}
OPTIONS |= {"progress": False}
FORGET, RETAIN = "forget/surprise", "retain/surprise"


class Steps(Data):
    """So many optimiser steps an epoch, whatever the accumulation and the number of processes."""

    def __init__(self, tokenizer, batches=STEPS):
        super().__init__(tokenizer, ("forget", "retain"))
        self.batches = batches

    def train_dataloader(self):
        return DataLoader(range(self.batches))


def fit(model, tokenizer, folder, *callbacks, batches=STEPS, **options):
    options = {**QUIET, "max_epochs": 1, "logger": CSVLogger(folder, name="logs"), "log_every_n_steps": 50, **options}
    options["enable_checkpointing"] = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = L.Trainer(default_root_dir=folder, num_sanity_val_steps=0, callbacks=list(callbacks), **options)
    trainer.fit(Module(model), Steps(tokenizer, batches))
    return trainer


def curve(trainer, key):
    trainer.logger.save()
    with open(f"{trainer.logger.log_dir}/metrics.csv") as file:
        return [(int(row["step"]), float(row[key])) for row in csv.DictReader(file) if row.get(key)]


def test_steps_are_evaluated_beside_validations(tiny_model_dir, tiny_tokenizer, tmp_path):
    trainer = fit(tiny_model_dir(), tiny_tokenizer, tmp_path, Evaluate(every_n_steps=3, **OPTIONS), batches=5)
    found = curve(trainer, f"eval/{FORGET}")
    assert [step for step, _ in found] == [0, 2, 4]  # the start, the third step, and the validation after the fifth
    values = [value for _, value in found]
    assert len(set(values)) == 3
    after = json.loads((tmp_path / "metrics.json").read_text())["after"][FORGET]
    assert values[-1] == pytest.approx(after)


def test_accumulation_and_a_resume_evaluate_a_step_once(tiny_model_dir, tiny_tokenizer, tmp_path, monkeypatch):
    steps, original = [], Evaluate._evaluate_some
    monkeypatch.setattr(
        Evaluate, "_evaluate_some", lambda self, t, m: steps.append(t.global_step) or original(self, t, m)
    )
    options = {"batches": 8, "accumulate_grad_batches": 2, "limit_val_batches": 0}
    saved = ModelCheckpoint(tmp_path / "ckpt", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    fit(tiny_model_dir(), tiny_tokenizer, tmp_path / "run", Evaluate(every_n_steps=2, **OPTIONS), saved, **options)
    assert steps == [2, 4]
    steps.clear()
    trainer = L.Trainer(
        **QUIET,
        default_root_dir=tmp_path / "run",
        max_epochs=1,
        accumulate_grad_batches=2,
        limit_val_batches=0,
        callbacks=[Evaluate(every_n_steps=2, **OPTIONS)],
    )
    trainer.fit(Module(tiny_model_dir()), Steps(tiny_tokenizer, 8), ckpt_path=tmp_path / "ckpt/step=2.ckpt")
    assert steps == [4]


def test_no_clock_of_training_counts_it(tiny_model_dir, tiny_tokenizer, tmp_path):
    throughput = Throughput()
    running = []

    class Asking(Evaluate):
        def _evaluate_some(self, trainer, pl_module):
            running.append(throughput.watch.since is not None)
            return super()._evaluate_some(trainer, pl_module)

    fit(tiny_model_dir(), tiny_tokenizer, tmp_path, throughput, Asking(every_n_steps=1, **OPTIONS), limit_val_batches=0)
    assert running == [False] * STEPS


def test_training_is_the_same_with_and_without(tiny_model_dir, tiny_tokenizer, tmp_path):
    weights = []
    for every in (1, None):
        torch.manual_seed(3)
        trainer = fit(tiny_model_dir(), tiny_tokenizer, tmp_path / str(every), Evaluate(every_n_steps=every, **OPTIONS))
        weights.append([parameter.detach().clone() for parameter in trainer.lightning_module.parameters()])
        weights[-1].append(torch.rand(3))
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


def test_the_best_checkpoint_is_the_one_that_meets_the_criterion(tiny_model_dir, tiny_tokenizer, tmp_path):
    """Both scores fall with every step: the best is the first at which that of forget is low enough."""
    plain = fit(tiny_model_dir(), tiny_tokenizer, tmp_path / "plain", Evaluate(every_n_steps=1, **OPTIONS))
    forget, retain = (curve(plain, f"eval/{key}") for key in (FORGET, RETAIN))
    forget, retain = ([value for _, value in points][1 : STEPS + 1] for points in (forget, retain))
    assert forget == sorted(forget, reverse=True)
    bound = (forget[1] + forget[2]) / 2
    best = ModelCheckpoint(
        tmp_path / "ckpt", "{step}", monitor="eval/criterion", mode="max", every_n_train_steps=1, save_top_k=1
    )
    callback = Evaluate(every_n_steps=1, criterion=Criterion(RETAIN, at_most={FORGET: bound}), **OPTIONS)
    trainer = fit(tiny_model_dir(), tiny_tokenizer, tmp_path / "run", callback, best)
    assert best.best_model_path.endswith("step=3.ckpt")
    assert float(best.best_model_score) == pytest.approx(retain[2])
    values = [value for _, value in curve(trainer, "eval/criterion")][1 : STEPS + 1]
    expected = [bound - forget[0], bound - forget[1], retain[2], retain[3]]
    assert values == pytest.approx(expected)
    stages = json.loads((tmp_path / "run/metrics.json").read_text())
    assert stages["before"]["criterion"] < 0 < stages["after"]["criterion"]


def test_early_stopping_ends_where_the_criterion_falls(tiny_model_dir, tiny_tokenizer, tmp_path):
    stop = EarlyStopping("eval/criterion", mode="max", patience=1)
    callback = Evaluate(criterion=Criterion(RETAIN, at_most={FORGET: 100.0}), **OPTIONS)
    trainer = fit(tiny_model_dir(), tiny_tokenizer, tmp_path, callback, stop, max_epochs=9, batches=1)
    assert trainer.global_step == 2  # feasible from the first epoch on, and worse at the second


def test_a_criterion_of_unknown_scores_is_refused_before_training(
    tiny_model_dir, tiny_tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(Module, "training_step", lambda *_: pytest.fail("trained"))
    callback = Evaluate(criterion=Criterion("retain/likelihood"), **OPTIONS)
    with pytest.raises(ValueError, match=r"criterion must name scores .*, got \['retain/likelihood'\]; there are: "):
        fit(tiny_model_dir(), tiny_tokenizer, tmp_path, callback)


def test_a_run_that_diverges_ends_with_what_it_has(tiny_model_dir, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(Module, "training_step", lambda self, *_: torch.nan * next(self.model.parameters()).sum())
    stop = EarlyStopping("eval/criterion", mode="max")
    best = ModelCheckpoint(tmp_path / "ckpt", monitor="eval/retain/probability", mode="max")
    callback = Evaluate(criterion=Criterion("retain/probability"), **{**OPTIONS, "protocols": ["tofu"]})
    trainer = fit(tiny_model_dir(), tiny_tokenizer, tmp_path, callback, stop, best, max_epochs=9, batches=1)
    assert trainer.global_step == 1  # EarlyStopping ends a run whose score is no number
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["after"] == {}
    assert len(metrics["failed"]["after"]) == 4


def on_two(model, folder):
    from transformers import AutoTokenizer

    callback = Evaluate(every_n_steps=1, criterion=Criterion(RETAIN, at_most={FORGET: 100.0}), **OPTIONS)
    trainer = fit(
        model, AutoTokenizer.from_pretrained(model), folder, callback, batches=2 * STEPS, devices=2, strategy="ddp"
    )
    found = {name: value.item() for name, value in trainer.callback_metrics.items()}
    (folder / f"found {trainer.global_rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_two_processes_log_what_one_does(tiny_model_dir, tiny_tokenizer, tmp_path):
    callback = Evaluate(every_n_steps=1, criterion=Criterion(RETAIN, at_most={FORGET: 100.0}), **OPTIONS)
    alone = fit(tiny_model_dir(), tiny_tokenizer, tmp_path / "alone", callback)
    (tmp_path / "two").mkdir()
    spawn(2, on_two, tiny_model_dir(), tmp_path / "two")
    ranks = [json.loads((tmp_path / f"two/found {rank}.json").read_text()) for rank in (0, 1)]
    expected = {name: value.item() for name, value in alone.callback_metrics.items()}
    assert "eval/criterion" in expected
    assert ranks[0] == ranks[1] == pytest.approx(expected, rel=1e-4)
    file = tmp_path / "two/logs/version_0/metrics.csv"
    with file.open() as lines:
        logged = [float(row["eval/criterion"]) for row in csv.DictReader(lines) if row.get("eval/criterion")]
    assert logged == pytest.approx([value for _, value in curve(alone, "eval/criterion")], rel=1e-4)


def test_a_step_that_falls_on_a_validation_is_evaluated_once(tiny_model_dir, tiny_tokenizer, tmp_path, monkeypatch):
    steps, original = [], Evaluate._evaluate_some
    monkeypatch.setattr(
        Evaluate, "_evaluate_some", lambda self, t, m: steps.append(t.global_step) or original(self, t, m)
    )
    best = ModelCheckpoint(tmp_path / "ckpt", monitor=f"eval/{RETAIN}")
    callback = Evaluate(every_n_steps=2, **OPTIONS)
    trainer = fit(tiny_model_dir(), tiny_tokenizer, tmp_path, callback, best, val_check_interval=1)
    assert steps == [1, 2, 3, 4]
    found = curve(trainer, f"eval/{RETAIN}")
    assert [step for step, _ in found] == [0, 0, 1, 2, 3]  # the start, and a point a step
    assert float(best.best_model_score) == pytest.approx(found[-1][1])  # the validation logged what the step had found
    assert trainer.callback_metrics[f"eval/{RETAIN}"].item() == pytest.approx(found[-1][1])


def unsteady(log):
    """A protocol that has no number for the starting model."""
    known = any(sample["index"] for sample in log["forget"]) and min(s["answer_nll"] for s in log["forget"]) > 0
    return {"mine/score": 1.0 if known else torch.nan, "mine/odd": torch.inf, "mine/text": "high"}


def test_metrics_hold_finite_numbers_and_tell_of_others(tiny_model_dir, tiny_tokenizer, tmp_path):
    def no_constant(name):
        raise AssertionError(name)

    options = {**OPTIONS, "protocols": ["tofu", f"{__name__}.unsteady"]}
    stop = EarlyStopping("eval/mine/odd", check_finite=False)  # a right name, though there is no number
    fit(tiny_model_dir(), tiny_tokenizer, tmp_path, Evaluate(resamples=3, **options), stop)
    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=no_constant)
    for stage in ("before", "after"):
        assert metrics[stage]["mine/score"] == 1.0
        assert not {"mine/odd", "mine/text"} & metrics[stage].keys()
        told = metrics["missing"][stage]
        assert (told["mine/odd"], told["mine/text"]) == ("a finite number, got inf", "a finite number, got 'high'")
