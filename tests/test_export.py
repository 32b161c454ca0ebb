"""A checkpoint and the config beside it make a Hugging Face folder again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_unlearn.cli import main
from lightning_unlearn.export import export, find_checkpoint


@pytest.fixture(scope="module", params=["full", "lora"])
def run(request, tiny_model_dir, tmp_path_factory) -> Path:
    """A finished run of a few steps, of all weights or of adapters."""
    folder, run = str(tiny_model_dir(max_position_embeddings=1024)), tmp_path_factory.mktemp(request.param)
    words = f"fit --model GradientDifference --model.model {folder} --model.lr 1e-2 --data FictitiousAuthors"
    words += f" --data.authors 3 --data.forget_authors 1 --data.tokenizer {folder} --trainer.default_root_dir {run}"
    words += " --trainer.accelerator cpu --trainer.max_steps 3 --trainer.enable_progress_bar false"
    words += " --evaluate.max_rows 1 --evaluate.training_max_rows 0 --evaluate.max_new_tokens 2"
    words += " --evaluate.protocols [tofu] --evaluate.progress false"
    assert main([*words.split(), *(["--model.lora.r", "2"] if request.param == "lora" else [])]) == 0
    return run


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([[0, 5, 9, 14]])).logits


def test_export_equals_the_model_that_the_run_wrote(run, tmp_path):
    assert main(["export", str(run), "--output", str(tmp_path / "out")]) == 0
    torch.testing.assert_close(logits(tmp_path / "out"), logits(run / "model"))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "</s>"


def test_a_checkpoint_is_a_source_too(run, tmp_path):
    export(run / "checkpoints/last.ckpt", tmp_path)
    torch.testing.assert_close(logits(tmp_path), logits(run / "model"))


def test_adapter_alone_where_there_is_one(run, tmp_path, capsys):
    code = main(["export", str(run), "--output", str(tmp_path), "--adapter"])
    if "lora" in run.name:
        assert code == 0
        assert (tmp_path / "adapter_model.safetensors").exists()
        assert not (tmp_path / "model.safetensors").exists()
    else:
        assert code == 2
        assert "merge must be true for a run without LoRA" in capsys.readouterr().err


def test_the_best_checkpoint_comes_first(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    assert find_checkpoint(tmp_path).name == "last.ckpt"
    (tmp_path / "checkpoints/best.ckpt").touch()
    assert find_checkpoint(tmp_path).name == "best.ckpt"


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"source must be a checkpoint or a run folder with .*last.ckpt, got"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    with pytest.raises(ValueError, match=r"run folder with config.yaml, got no"):
        export(tmp_path, tmp_path / "out")


def test_a_checkpoint_of_another_model_is_refused(run, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    torch.save({"state_dict": {"model.other.weight": torch.zeros(1)}}, tmp_path / "checkpoints/last.ckpt")
    with pytest.raises(ValueError, match=r"must hold the trained weights of the run's model, got .*last.ckpt"):
        export(tmp_path, tmp_path / "out")
