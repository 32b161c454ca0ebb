"""Misspelt scores are told early, right ones never refused, and rows that fail are named."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_unlearn.callbacks import evaluation
from lightning_unlearn.callbacks.evaluation import Evaluate
from lightning_unlearn.data.records import Record
from lightning_unlearn.evaluation.criterion import Criterion
from lightning_unlearn.evaluation.log import read_samples
from tests.callbacks import test_evaluation
from tests.callbacks.test_evaluation import OPTIONS, SETS, Module, _record_generated, fit

world = test_evaluation.world


def test_a_misspelt_score_to_rank_by_is_refused_before_training(world, tmp_path, monkeypatch):
    checkpoint = ModelCheckpoint(tmp_path / "ckpt", monitor="eval/closer_look/forget_eficacy", mode="max")
    monkeypatch.setattr(Module, "training_step", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"must be a score of .*, got 'eval/closer_look/forget_eficacy'; there are: "):
        fit(world(Evaluate(training_max_rows=1, max_rows=1, **OPTIONS), checkpoint))
    with pytest.raises(ValueError, match="there are: none, as training_max_rows is 0"):
        fit(world(Evaluate(training_max_rows=0, max_rows=1, **OPTIONS), checkpoint))


def test_a_score_that_no_validation_computes_cannot_be_ranked_by(world, tmp_path, monkeypatch):
    checkpoint = ModelCheckpoint(tmp_path / "ckpt", monitor="eval/privacy/gradient_norm_auc")
    monkeypatch.setattr(Module, "training_step", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"must be a score of .*, got 'eval/privacy/gradient_norm_auc'"):
        fit(world(Evaluate(gradient_norms=True, **OPTIONS), checkpoint, names=("forget", "holdout")))


@pytest.mark.parametrize("own", [False, True])
def test_a_misspelt_score_is_told_by_a_few_rows(world, tmp_path, monkeypatch, own):
    """One row of each set, or those of training for a protocol that may have other scores of more; they are kept."""
    protocols = ["tofu", f"{test_evaluation.__name__}.shortest"] if own else ["tofu"]
    asked, few = _record_generated(monkeypatch), 2 if own else 1
    options = {"protocols": protocols, "training_max_rows": 2, **OPTIONS}
    for wrong in (ModelCheckpoint(tmp_path, monitor="eval/model_utilty"), None):
        asked.clear()
        criterion = Criterion("model_utilty") if wrong is None else None
        with pytest.raises(ValueError, match="model_utilty"):
            fit(world(Evaluate(criterion=criterion, **options), *filter(None, [wrong])))
        assert sum(asked) == (0 if wrong is None else few * len(SETS))
    right = ModelCheckpoint(tmp_path, monitor="eval/model_utility")
    asked.clear()
    trainer = fit(world(Evaluate(**options), right))
    assert sum(asked) == (4 - few + 2 + 4) * len(SETS)  # the start's other rows, a validation, the end
    samples = [(s["stage"], s["set"], s["index"]) for s in read_samples(trainer.default_root_dir)]
    assert len(samples) == len(set(samples)) == 2 * 4 * len(SETS)


@pytest.mark.parametrize("failed", [{0}, {0, 1, 2, 3}])
def test_rows_that_fail_make_no_right_name_refused(world, tmp_path, monkeypatch, failed):
    original = evaluation.evaluate

    def evaluate(*args, **options):
        log = original(*args, **options)
        return {
            name: [
                {"set": name, "index": s["index"], "question": s["question"], "failed": "NaN"}
                if name == "forget" and s["index"] in failed
                else s
                for s in samples
            ]
            for name, samples in log.items()
        }

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    best = ModelCheckpoint(tmp_path / "ckpt", monitor="eval/forget/probability")
    options = {"protocols": ["tofu"], "training_max_rows": 3, **OPTIONS}
    trainer = fit(world(Evaluate(**options), best))
    assert best.best_model_score.isfinite() == (len(failed) == 1)
    assert trainer.state.finished
    if len(failed) == 1:  # the others tell
        with pytest.raises(ValueError, match="monitor must be a score of this evaluation, got 'eval/forget/x'"):
            fit(world(Evaluate(**options), ModelCheckpoint(tmp_path / "x", monitor="eval/forget/x")))


def test_a_continued_fit_refuses_a_misspelt_score_by_the_start(world, tmp_path):
    last = ModelCheckpoint(tmp_path / "ckpt", filename="last", every_n_epochs=1)
    options = {"protocols": ["tofu"], "max_rows": 1, "training_max_rows": 1, **OPTIONS}
    fit(world(Evaluate(**options), last))
    wrong = ModelCheckpoint(tmp_path / "best", monitor="eval/model_utilty")
    with pytest.raises(ValueError, match="monitor must be a score of this evaluation, got 'eval/model_utilty'"):
        fit(world(Evaluate(**options), wrong, epochs=2), ckpt_path=tmp_path / "ckpt/last.ckpt")


def test_validate_names_rows_that_fail(world):
    trainer, module, data = world(Evaluate(**OPTIONS))
    data.sets["forget"][1] = Record("Who wrote " + "the long song and " * 300, "Ana.")
    with pytest.warns(UserWarning, match="row 1 of forget: max_length=512 cuts off the whole answer"):
        trainer.validate(module, data, verbose=False)
