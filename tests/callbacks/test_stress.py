from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_unlearn.attacks.exam import Exam
from lightning_unlearn.attacks.layer_probe import LayerProbe
from lightning_unlearn.attacks.quantization import Quantization
from lightning_unlearn.attacks.relearning import Relearning
from lightning_unlearn.callbacks.run_folder import RunFolder
from lightning_unlearn.callbacks.stress import Stress
from lightning_unlearn.data.unlearning_records import UnlearningRecords
from lightning_unlearn.models import load_causal_lm
from lightning_unlearn.objectives.gradient_difference import GradientDifference
from lightning_unlearn.report.runs import read_curves
from lightning_unlearn.strategy import ShardedStrategy
from lightning_unlearn.stress import stress
from tests.attacks.exams import FORGET, RETAIN
from tests.quiet import QUIET
from tests.ranks import spawn

RECALL, PROBABILITY = "forget/rougeL_recall", "forget/probability"


def fit(model: Path, folder: Path, *callbacks: L.Callback, processes: int = 1, **options) -> tuple:
    torch.manual_seed(0)
    data = UnlearningRecords(forget=FORGET, retain=RETAIN, tokenizer=model, batch_size=2 // processes)
    objective = GradientDifference(load_causal_lm(model), optimizer=lambda p: torch.optim.SGD(p, lr=0.05))
    options = {"strategy": "ddp" if processes > 1 else "auto", "devices": processes, "max_epochs": 2} | options
    trainer = L.Trainer(**QUIET | options, default_root_dir=folder, callbacks=[*callbacks])
    trainer.fit(objective, datamodule=data)
    return trainer, objective


def attacks() -> list:
    return [Quantization(bits=[8, 4]), Relearning(k=2, steps=[1, 3], lr=1e-3)]


def test_start_checks_and_end(tiny_model_dir, tmp_path):
    callback = Stress(attacks(), every_n_steps=2, max_new_tokens=4)
    logger = CSVLogger(tmp_path, name="logs")
    trainer, objective = fit(tiny_model_dir(), tmp_path, callback, RunFolder(), logger=logger, log_every_n_steps=1)
    found = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "stress").iterdir()}
    assert set(found) == {"quantization", "relearning_forget"}
    for attack in attacks():
        content = found[attack.name]
        for name, model in (("start", load_causal_lm(tiny_model_dir())), ("unlearned", objective.model)):
            expected = [{"x": x, **scores()} for x, scores in attack.points(model, callback._exam(trainer))]
            for point, measured in zip(expected, content["curves"][name], strict=True):
                assert measured == pytest.approx(point)
    curves = read_curves(list(tmp_path.glob("logs/*/metrics.csv")))
    points = curves[f"stress/quantization/{PROBABILITY}"]
    assert [step for step, _ in points] == [0, 2, 4, 6]
    unlearned = found["quantization"]["curves"]["unlearned"]
    assert points[-1][1] == pytest.approx(max(point[PROBABILITY] for point in unlearned[1:]))
    assert "Stress tests" in (tmp_path / "report.html").read_text()
    assert f"stress/relearning_forget/{RECALL}" in trainer.callback_metrics


def test_the_command_goes_on_from_what_the_callback_measured(tiny_model_dir, tmp_path, monkeypatch):
    fit(tiny_model_dir(), tmp_path, Stress(attacks(), max_new_tokens=4), RunFolder())
    monkeypatch.setattr(Exam, "ask", lambda *arguments: pytest.fail("measured again"))
    data = UnlearningRecords(forget=FORGET, retain=RETAIN, tokenizer=tiny_model_dir())
    found = stress(tmp_path, attacks=attacks(), data=data, start=str(tiny_model_dir()), max_new_tokens=4)
    assert [list(results.curves) for results in found] == [["unlearned", "start"]] * 2
    assert not any(results.failed for results in found)


def test_training_goes_on_as_without_it(tiny_model_dir, tmp_path):
    _, plain = fit(tiny_model_dir(), tmp_path / "plain")
    _, attacked = fit(tiny_model_dir(), tmp_path / "attacked", Stress(attacks(), every_n_steps=1, max_new_tokens=2))
    for one, other in zip(plain.model.parameters(), attacked.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_check_comes_once_a_step_under_accumulation(tiny_model_dir, tmp_path, monkeypatch):
    checks = []
    monkeypatch.setattr(Stress, "_attack", lambda self, trainer, module, name: checks.append(name) or {})
    fit(tiny_model_dir(), tmp_path, Stress(attacks(), every_n_steps=1), accumulate_grad_batches=3)
    assert checks == ["start", None, None, "unlearned"]


def test_a_resumed_fit_keeps_the_start(tiny_model_dir, tmp_path, monkeypatch):
    trainer, objective = fit(tiny_model_dir(), tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    names = []
    monkeypatch.setattr(Stress, "_attack", lambda self, trainer, module, name: names.append(name) or {})
    data = UnlearningRecords(forget=FORGET, retain=RETAIN, tokenizer=tiny_model_dir(), batch_size=2)
    again = L.Trainer(**QUIET, max_epochs=2, default_root_dir=tmp_path, callbacks=[Stress(attacks())])
    again.fit(objective, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert names == ["unlearned"]


def on_two(model: Path, folder: Path) -> None:
    fit(model, folder, Stress(attacks(), max_new_tokens=4), processes=2)
    with pytest.raises(ValueError, match="Stress needs a whole model, got a sharded one"):
        fit(model, folder / "sharded", Stress(attacks()), processes=2, strategy=ShardedStrategy(2, 1))


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tiny_model_dir, tmp_path):
    fit(tiny_model_dir(), tmp_path / "one", Stress(attacks(), max_new_tokens=4))
    spawn(2, on_two, tiny_model_dir(), tmp_path / "two")
    for attack in attacks():
        one, two = (json.loads((tmp_path / n / f"stress/{attack.name}.json").read_text()) for n in ("one", "two"))
        assert one["about"] == two["about"]
        for name in ("start", "unlearned"):
            for point, other in zip(one["curves"][name], two["curves"][name], strict=True):
                assert point == pytest.approx(other, rel=1e-4)


def test_mistakes_are_found_before_training(tiny_model_dir, tmp_path):
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        Stress(attacks(), every_n_steps=0)
    with pytest.raises(ValueError, match=r"attacks must hold an attack, got \[\]"):
        Stress([])
    with pytest.raises(ValueError, match=r"layers must be in \[-2, 2\), got \[99\]"):
        fit(tiny_model_dir(), tmp_path, Stress([Quantization(), LayerProbe(layers=[99])]))
    assert not (tmp_path / "stress").exists()
    with pytest.raises(ValueError, match="k must leave forget rows that are not shown"):
        fit(tiny_model_dir(), tmp_path, Stress(Relearning(k=6)))
    with pytest.raises(ValueError, match="Stress needs an UnlearningDataModule, got NoneType"):
        L.Trainer(**QUIET, callbacks=[Stress(attacks())]).fit(GradientDifference(load_causal_lm(tiny_model_dir())), [])
