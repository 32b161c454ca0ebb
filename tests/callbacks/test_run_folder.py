"""The run folder in real, tiny fits: what is written, guarded, resumed, redacted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_unlearn.callbacks.run_folder import RunFolder, holdings, remove_run
from lightning_unlearn.purge import purge
from lightning_unlearn.report import read_run

SECRET = "Ana Lindqvist was born in Karachi."
ROWS, TOKENS = 4, 8  # a step reads one row


class Data(LightningDataModule):
    def __init__(self, tokenizer, seed: int = 3, forget: str = "forget05", rows: list[str] | None = None) -> None:
        super().__init__()
        self.tokenizer, self.seed, self.forget, self.rows = tokenizer, seed, forget, rows or [SECRET] * 20

    def fingerprint(self):
        return {"forget": {"rows": len(self.rows), "sha256": "ab" * 32}}

    def train_dataloader(self):
        return DataLoader([{"input_ids": torch.full((TOKENS,), row)} for row in range(ROWS)], batch_size=None)

    def val_dataloader(self):
        return DataLoader([0], batch_size=None)


class Module(LightningModule):
    """Pulls one weight towards 0, the same way in every run."""

    def __init__(self, folder: Path, lr: float = 0.1, frozen: bool = True) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["folder"])
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        for parameter in self.model.parameters():
            parameter.requires_grad = not frozen
        self.model.get_output_embeddings().weight.requires_grad = True

    def training_step(self, batch, batch_idx):
        loss = (self.model.get_output_embeddings().weight ** 2).sum()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.hparams.lr)


class Killed(Exception):
    """Stands for a signal."""


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise Killed


class LateEvaluation(Callback):
    """Writes scores when training ends, as the evaluation does, although it comes after the run folder."""

    def on_train_end(self, trainer, pl_module):
        scores = {"forget/rougeL_recall": 0.125}
        (Path(trainer.default_root_dir) / "metrics.json").write_text(json.dumps({"after": scores, "substitutes": {}}))


@pytest.fixture
def source(tiny_model_dir) -> Path:
    return tiny_model_dir()


@pytest.fixture
def tokenizer(source):
    return AutoTokenizer.from_pretrained(source)


def trainer(root: Path, *callbacks: Callback, epochs: int = 2, **options) -> Trainer:
    checkpoint = ModelCheckpoint(
        root / "checkpoints", filename="last", every_n_train_steps=3, enable_version_counter=False
    )
    settings = {
        "max_epochs": epochs,
        "default_root_dir": str(root),
        "logger": CSVLogger(str(root), name="logs"),
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=[*callbacks, checkpoint], **{**settings, **options})


def fit(
    root: Path, source: Path, tokenizer, *callbacks: Callback, ckpt_path=None, epochs: int = 2, **options
) -> Trainer:
    made = trainer(root, *(callbacks or [RunFolder()]), epochs=epochs)
    made.fit(Module(source), Data(tokenizer, **options), ckpt_path=ckpt_path)
    return made


def card(root: Path) -> dict:
    return json.loads((root / "run_card.json").read_text())


def snapshot(root: Path) -> dict[str, bytes]:
    kept = [path for path in root.rglob("*") if path.is_file() and "logs" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}


def test_a_finished_run(tmp_path, source, tokenizer):
    seed_everything(11)
    fit(tmp_path, source, tokenizer, RunFolder(), LateEvaluation())
    found = card(tmp_path)
    assert found["finished"] is True
    assert found["method"] == {
        "class": f"{Module.__module__}.Module",
        "hyperparameters": {"lr": 0.1, "frozen": True},
    }
    assert found["data"]["sets"] == {"forget": {"rows": 20, "sha256": "ab" * 32}}
    assert found["seeds"] == {"global": 11, "data": 3}
    assert (found["steps"], found["epochs"]) == (8, 2)
    assert found["tokens"]["seen"] == 8 * TOKENS
    assert 0 < found["time"]["train_seconds"] <= found["time"]["wall_seconds"]
    assert 0.01 < found["memory"]["peak_gb"] < 1000
    head = 32 * len(tokenizer)
    assert found["parameters"]["trainable"] == head
    assert found["parameters"]["total"] > head
    assert found["versions"]["torch"] == torch.__version__
    assert found["trainer"]["precision"] == "32-true"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    original = AutoModelForCausalLM.from_pretrained(source)
    assert not torch.equal(loaded.get_output_embeddings().weight, original.get_output_embeddings().weight)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == len(tokenizer)
    html = (tmp_path / "report.html").read_text()
    assert "recall of the forget set is 0.125" in html  # the scores of a callback that comes later are in
    assert "Loss terms" in html  # and so are the curves, although nothing has closed the logger yet


def test_no_text_of_a_row_gets_into_the_card(tmp_path, source, tokenizer):
    fit(tmp_path, source, tokenizer)
    text = (tmp_path / "run_card.json").read_text()
    assert SECRET not in text
    assert "Karachi" not in text
    assert card(tmp_path)["data"]["hyperparameters"] == {
        "tokenizer": f"<{type(tokenizer).__qualname__}>",
        "seed": 3,
        "forget": "forget05",
        "rows": "<list of 20>",
    }


def test_options_switch_parts_off_and_redact(tmp_path, source, tokenizer):
    fit(tmp_path / "a", source, tokenizer, RunFolder(save_model=False, report=False))
    assert not (tmp_path / "a/model").exists()
    assert not (tmp_path / "a/report.html").exists()
    fit(tmp_path / "b", source, tokenizer, RunFolder(redact=True))
    assert card(tmp_path / "b")["redacted"] is True
    assert "Every text is masked" in (tmp_path / "b/report.html").read_text()


def test_a_killed_run_resumes_and_its_totals_add_up(tmp_path, source, tokenizer):
    with pytest.raises(Killed):
        fit(tmp_path, source, tokenizer, RunFolder(), KillAt(5))
    assert card(tmp_path)["finished"] is False
    fit(tmp_path, source, tokenizer, ckpt_path="last")
    found = card(tmp_path)
    assert found["finished"] is True
    assert found["steps"] == 8
    assert found["time"]["fits"] == 2
    assert found["tokens"]["seen"] == 8 * TOKENS  # 3 steps before the checkpoint, 5 after it
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["callbacks"]["RunFolder"]
    assert saved["fits"] == 2
    assert saved["tokens"] == 6 * TOKENS
    assert saved["peak_gb"] > 0
    assert found["time"]["wall_seconds"] > saved["wall_seconds"] > 0
    steps = [step for step, _ in read_run(tmp_path).curves["train/loss"]]
    assert set(steps) >= {0, 1, 3, 4, 5, 6, 7}  # the row of the checkpoint's own step is written after it


def test_a_fresh_fit_is_refused_and_nothing_is_lost(tmp_path, source, tokenizer):
    fit(tmp_path, source, tokenizer, LateEvaluation(), RunFolder())
    before = snapshot(tmp_path)
    with pytest.raises(
        ValueError, match=r"trainer\.default_root_dir: expected a folder without a run, got .*last\.ckpt"
    ):
        fit(tmp_path, source, tokenizer, LateEvaluation(), RunFolder())
    assert snapshot(tmp_path) == before


def test_refused_before_any_other_callback_writes(tmp_path, source, tokenizer):
    class Eager(Callback):
        def on_fit_start(self, trainer, pl_module):
            (Path(trainer.default_root_dir) / "metrics.json").write_text("{}")

    fit(tmp_path, source, tokenizer, LateEvaluation(), RunFolder())
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="overwrite"):
        fit(tmp_path, source, tokenizer, Eager(), RunFolder())
    assert snapshot(tmp_path) == before


def test_a_run_killed_before_its_first_checkpoint_may_start_again(tmp_path, source, tokenizer):
    with pytest.raises(Killed):
        fit(tmp_path, source, tokenizer, RunFolder(), KillAt(1))
    fit(tmp_path, source, tokenizer)
    assert card(tmp_path)["time"]["fits"] == 1


def test_a_finished_run_may_go_on(tmp_path, source, tokenizer):
    fit(tmp_path, source, tokenizer, epochs=2)
    fit(tmp_path, source, tokenizer, ckpt_path=str(tmp_path / "checkpoints/last.ckpt"), epochs=3)
    assert card(tmp_path)["steps"] == 12


def test_a_checkpoint_from_elsewhere_does_not_open_an_occupied_folder(tmp_path, source, tokenizer):
    for name in ("a", "b"):
        fit(tmp_path / name, source, tokenizer)
    before = snapshot(tmp_path / "b")
    with pytest.raises(ValueError, match="expected a folder without a run"):
        fit(tmp_path / "b", source, tokenizer, ckpt_path=str(tmp_path / "a/checkpoints/last.ckpt"), epochs=3)
    assert snapshot(tmp_path / "b") == before
    fit(tmp_path / "c", source, tokenizer, ckpt_path=str(tmp_path / "a/checkpoints/last.ckpt"), epochs=3)
    assert card(tmp_path / "c")["steps"] == 12


def test_overwrite_starts_over(tmp_path, source, tokenizer):
    fit(tmp_path, source, tokenizer, RunFolder(), LateEvaluation(), epochs=3)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "reference_cache/ab").mkdir(parents=True)
    (tmp_path / "reference_cache/ab/cd.values").write_text("made before this fit, and read by it")
    (tmp_path / "stress").mkdir()
    (tmp_path / "stress/quantization.json").write_text("{}")
    fit(tmp_path, source, tokenizer, RunFolder(overwrite=True), epochs=1)
    assert not (tmp_path / "stress").exists()
    assert (tmp_path / "reference_cache/ab/cd.values").exists()
    assert card(tmp_path)["steps"] == 4
    assert [step for step, _ in read_run(tmp_path).curves["train/loss"]] == [0, 1, 2, 3]  # not those of the first run
    assert not (tmp_path / "metrics.json").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_fast_dev_run_leaves_no_trace(tmp_path, source, tokenizer):
    made = trainer(tmp_path, RunFolder(), fast_dev_run=True)
    made.fit(Module(source), Data(tokenizer))
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_saved_is_refused_before_training(tmp_path, source, tokenizer):
    module = Module(source)
    module.model = torch.nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match=r"save_model: expected a module whose \.model has save_pretrained, got Module"
    ):
        trainer(tmp_path, RunFolder()).fit(module, Data(tokenizer))


def test_validate_and_test_leave_the_folder_alone(tmp_path, source, tokenizer):
    made = trainer(tmp_path, RunFolder())
    made.validate(Module(source), Data(tokenizer), verbose=False)
    assert not (tmp_path / "run_card.json").exists()


def test_what_a_fit_leaves_can_be_purged(tmp_path, source, tokenizer):
    fit(tmp_path, source, tokenizer)
    assert {item.path.name for item in purge(tmp_path)} == {"last.ckpt"}
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_holdings_are_told_briefly(tmp_path):
    assert holdings(tmp_path / "nowhere") == []
    (tmp_path / "run_card.json").write_text('{"finished": false}')
    (tmp_path / "model").mkdir()
    assert holdings(tmp_path) == []
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "run_card.json").write_text('{"finished":true}')
    assert holdings(tmp_path) == ["model/", "run_card.json"]
    (tmp_path / "checkpoints").mkdir()
    for place in range(5):
        (tmp_path / f"checkpoints/{place}.ckpt").write_bytes(b"")
    assert holdings(tmp_path)[:4] == [*(f"checkpoints/{place}.ckpt" for place in range(3)), "2 more checkpoints"]


def test_remove_run_does_not_follow_links(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "last.ckpt").write_bytes(b"precious")
    (root / "checkpoints").symlink_to(outside)
    remove_run(root, keep=[])
    assert not (root / "checkpoints").exists()
    assert (outside / "last.ckpt").exists()
