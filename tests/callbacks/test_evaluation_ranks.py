"""`Evaluate` on several ranks: files and scores of one process, in fit, validate and test. One spawn runs all cases."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_unlearn.callbacks.evaluation import Evaluate
from lightning_unlearn.callbacks.preemption import SaveOnSigterm
from lightning_unlearn.data.fictitious import FictitiousAuthors
from lightning_unlearn.evaluation.judge import Judge
from lightning_unlearn.evaluation.log import SAMPLES, read_samples
from lightning_unlearn.objectives.gradient_difference import GradientDifference
from lightning_unlearn.strategy import ShardedStrategy
from tests.evaluation.test_shared import nearly
from tests.quiet import QUIET
from tests.ranks import spawn

OPTIONS = {"max_rows": 3, "training_max_rows": 2, "batch_size": 1, "max_new_tokens": 5, "progress": False}
JUDGES = {"sentence_encoder": "lexical", "entailment": "lexical"}
ROWS = 3 * 4  # of an evaluation
WAYS = {"ddp": "ddp", "fsdp": (2, 1), "tp": (1, 2)}  # (data parallel, tensor parallel)


def setting(model: Path, folder: Path, way: str | None = None) -> tuple:
    """A trainer, an objective and data; the same steps on one process and on two."""
    torch.manual_seed(0)
    mesh = WAYS.get(way, "auto")
    replicas = 1 if way in (None, "tp") else 2
    checkpoint = ModelCheckpoint(folder / "checkpoints", "best", monitor="eval/forget/probability", mode="min")
    trainer = L.Trainer(
        **{**QUIET, "enable_checkpointing": True},
        devices=1 if way is None else 2,
        strategy=ShardedStrategy(*mesh) if isinstance(mesh, tuple) else mesh,
        max_epochs=2,
        default_root_dir=folder,
        callbacks=[Evaluate(**OPTIONS, **JUDGES), SaveOnSigterm(), checkpoint],
    )
    data = FictitiousAuthors(
        authors=3, forget_authors=1, evaluation_authors=2, max_forget_rows=4, batch_size=4 // replicas, tokenizer=model
    )
    return trainer, GradientDifference(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.05)), data


def all_stages(model: Path, folder: Path, way: str | None = None) -> None:
    trainer, objective, data = setting(model, folder, way)
    trainer.fit(objective, data)
    found = {"fit": {name: value.item() for name, value in trainer.callback_metrics.items() if "eval/" in name}}
    found |= {"best": [float(trainer.checkpoint_callbacks[0].best_model_score), trainer.global_step]}
    for stage in (trainer.validate, trainer.test):
        (logged,) = stage(objective, data, verbose=False)
        found[stage.__name__] = {name: value for name, value in logged.items() if "eval/" in name}
    (folder / f"found {trainer.global_rank}.json").write_text(json.dumps(found))


def on_two(model: Path, folder: Path) -> None:
    for way in WAYS:
        all_stages(model, folder / way, way)
        torch.distributed.barrier()
        stopped_and_continued(model, folder / f"{way} stopped", way)
        torch.distributed.barrier()


def stopped_and_continued(model: Path, folder: Path, way: str) -> None:
    """The second process alone is told to end: while the starting model is evaluated, and again after training."""
    rest_and_validations = ROWS - 2 + 2 * 8
    for rows, last in ((1, None), (rest_and_validations + 2, None), (None, folder / "checkpoints/last.ckpt")):
        trainer, objective, data = setting(model, folder, way)
        tell(rows if trainer.global_rank == 1 else None, parts=1 if way == "tp" else 2)
        if rows is None:
            trainer.fit(objective, data, ckpt_path=last)
        else:
            with pytest.raises(SIGTERMException) as ended:
                trainer.fit(objective, data)
            assert ended.value.code == 143
        torch.distributed.barrier()


JUDGED = Judge.samples


def tell(rows: int | None, parts: int) -> None:
    """Send this process SIGTERM after it has evaluated so many rows of stages."""
    seen = []

    def samples(self, chosen, **options):
        seen.extend(chosen)
        if rows is not None and len(seen) * parts >= rows:
            signal.raise_signal(signal.SIGTERM)
        return JUDGED(self, chosen, **options)

    Judge.samples = samples


@pytest.mark.slow(minutes=2)
def test_two_processes_write_and_log_what_one_does(tiny_model_dir, tmp_path):
    model = tiny_model_dir(max_position_embeddings=1024)
    (tmp_path / "alone").mkdir()
    for way in WAYS:
        (tmp_path / way).mkdir()
    all_stages(model, tmp_path / "alone")
    spawn(2, on_two, model, tmp_path)
    expected = read(tmp_path / "alone")
    logged = json.loads((tmp_path / "alone/found 0.json").read_text())
    assert len({name for _, name, _ in expected[1]}) == 4
    assert len(expected[1]) == 3 * ROWS
    for way in WAYS:
        for folder in (tmp_path / way, tmp_path / f"{way} stopped"):
            metrics, samples = read(folder)
            stages = {"before", "after", "test"} if folder.name == way else {"before", "after"}
            assert {stage for stage, *_ in samples} == stages
            for stage in stages:
                assert metrics[stage] == pytest.approx(expected[0][stage], rel=1e-4, abs=1e-6)
            for at, sample in samples.items():
                for key in ("generation", "answer_nll", "perturbed_nll", "cosine_similarity", "entailment", "step"):
                    assert sample[key] == nearly(expected[1][at][key], 1e-4), (way, at, key)
        ranks = [json.loads((tmp_path / way / f"found {rank}.json").read_text()) for rank in (0, 1)]
        assert ranks[0] == ranks[1]
        for stage, values in logged.items():
            assert values
            assert ranks[0][stage] == pytest.approx(values, rel=1e-4, abs=1e-6)


def read(folder: Path) -> tuple[dict, dict]:
    """Scores by stage, and samples by stage, set and index, each of which is there once."""
    samples = read_samples(folder)
    by_place = {(s["stage"], s["set"], s["index"]): s for s in samples}
    assert len(by_place) == len(samples) == len((folder / SAMPLES).read_text().splitlines())
    return json.loads((folder / "metrics.json").read_text()), by_place
