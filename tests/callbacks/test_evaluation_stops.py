"""SIGTERM while a run is evaluated: it ends soon, and the next start goes on to the same numbers."""

import json
import signal

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_unlearn.callbacks.evaluation import Evaluate
from lightning_unlearn.callbacks.preemption import SaveOnSigterm
from lightning_unlearn.evaluation.judge import Judge
from lightning_unlearn.evaluation.log import read_samples
from tests.callbacks.test_evaluation import OPTIONS, SETS, Data, Module
from tests.quiet import QUIET

ROWS = 4 * len(SETS)


@pytest.fixture
def start(tmp_path, tiny_tokenizer, tiny_model_dir):
    """Make a trainer, a module and data, in a folder that is always the same."""

    def make(folder="run", epochs=1, training_max_rows=0, model=None, **options):
        evaluate = Evaluate(batch_size=2, training_max_rows=training_max_rows, **{**OPTIONS, **options})
        callbacks = [SaveOnSigterm(), evaluate]
        trainer = L.Trainer(**QUIET, max_epochs=epochs, callbacks=callbacks, default_root_dir=tmp_path / folder)
        return trainer, Module(model or tiny_model_dir()), Data(tiny_tokenizer)

    return make


@pytest.fixture
def told(monkeypatch):
    """Send SIGTERM in the n-th round that is evaluated; returns the sizes of the rounds."""
    judged = Judge.samples

    def tell(at=None):
        sizes = []

        def samples(self, rows, **how):
            sizes.append(len(rows))
            if len(sizes) == at:
                signal.raise_signal(signal.SIGTERM)
            return judged(self, rows, **how)

        monkeypatch.setattr(Judge, "samples", samples)
        return sizes

    return tell


def fit(made, **options):
    made[0].fit(*made[1:], **options)
    return metrics(made[0])


def metrics(trainer):
    with open(f"{trainer.default_root_dir}/metrics.json") as file:
        return json.load(file)


def ended(call, *arguments, **options):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException) as error:
        call(*arguments, **options)
    assert error.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_before_training(start, told, tmp_path, tiny_model_dir):
    expected = fit(start(folder="whole"))
    told(at=3)
    ended(fit, start())
    assert len(read_samples(tmp_path / "run")) == 6  # those in work were finished
    assert not (tmp_path / "run/checkpoints").exists()
    sizes = told()
    assert fit(start()) == expected
    assert sum(sizes) == ROWS - 6 + ROWS
    assert len(read_samples(tmp_path / "run")) == 2 * ROWS


@pytest.mark.parametrize("change", ["weights", "masks", "settings"])
def test_samples_of_something_else_do_not_count(start, told, tmp_path, tiny_model_dir, change):
    told(at=3)
    ended(fit, start())
    other = {
        "weights": {"model": tiny_model_dir(intermediate_size=48)},
        "masks": {"redact": True},
        "settings": {"max_new_tokens": 5},
    }[change]
    sizes = told()
    fit(start(**other))
    assert sum(sizes) == 2 * ROWS
    assert len(read_samples(tmp_path / "run")) == 2 * ROWS
    assert (change == "masks") == ("Lindqvist" not in (tmp_path / "run/samples.jsonl").read_text())


def test_after_training(start, told, tmp_path):
    expected = fit(start(folder="whole"))
    told(at=ROWS // 2 + 2)
    ended(fit, start())
    assert len(read_samples(tmp_path / "run")) == ROWS + 4
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2
    saved = last.stat().st_mtime_ns
    told(at=1)
    ended(fit, start(), ckpt_path=last)  # again, with nothing left to train: nothing new to save
    assert last.stat().st_mtime_ns == saved
    sizes = told()
    assert fit(start(), ckpt_path=last) == expected
    assert sum(sizes) == ROWS - 6


def test_a_validation_during_training_is_finished_and_the_next_step_saved(start, told, tmp_path):
    options = {"epochs": 3, "training_max_rows": 3}
    expected = fit(start(folder="whole", **options))
    sizes = told(at=ROWS // 2 + 1)
    ended(fit, start(**options))
    assert sum(sizes) == ROWS + 3 * len(SETS)  # of "before" and of one validation
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    told()
    assert fit(start(**options), ckpt_path=last) == expected


def test_a_validation_after_the_last_step_is_finished_and_the_trained_model_saved(start, told, tmp_path):
    options = {"training_max_rows": 3}
    expected = fit(start(folder="whole", **options))
    sizes = told(at=ROWS // 2 + 1)
    ended(fit, start(**options))
    assert sum(sizes) == ROWS + 3 * len(SETS)
    told()
    assert fit(start(**options), ckpt_path=tmp_path / "run/checkpoints/last.ckpt") == expected


def test_a_test_goes_on_and_a_validation_ends(start, told, tmp_path):
    trainer, module, data = start(folder="whole")
    (expected,) = trainer.test(module, data, verbose=False)
    told(at=2)
    trainer, module, data = start()
    ended(trainer.test, module, data, verbose=False)
    assert len(read_samples(tmp_path / "run")) == 4
    sizes = told()
    trainer, module, data = start()
    assert trainer.test(module, data, verbose=False) == [expected]
    assert sum(sizes) == ROWS - 4
    sizes = told(at=1)
    ended(trainer.validate, module, data, verbose=False)
    assert sizes == [2]
