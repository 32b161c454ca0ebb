"""Each benchmark's preset, from its published format to the scores and the report of a run, with a tiny model."""

import json

import pytest

from lightning_unlearn.evaluation.log import read_samples
from lightning_unlearn.trainer_cli import run
from tests import published

WORDS = {
    "muse_news": ["--data.max_length", "128", "--data.sustainability", "true", "--data.request", "2"],
    "rwku": ["--data.subjects", '["Ana Lindqvist"]', "--data.template", "qa", "--data.fluency", "false"],
    "lume": ["--data.membership", "{folder}/mia"],
    "wmdp": ["--data.retain", "{folder}/wikitext.jsonl", "--data.max_length", "64", "--trainer.callbacks", "[]"],
}
FOUND = {
    "muse_news": {"muse/verbatim_memorization", "muse/utility", "muse/min_k_auc", "privacy/loss_auc"},
    "rwku": {"rwku/forget_mean", "rwku/neighbor_mean", "rwku/forget_adversarial", "rwku/forget_loss"},
    "lume": {"lume/task_aggregate", "lume/mia_score", "lume/forget_task1_completion"},
    "wmdp": {"forget/predictive_entropy", "retain/predictive_entropy"},
}


@pytest.mark.parametrize("preset", WORDS)
def test_a_run_has_the_scores_of_its_benchmark(preset, tmp_path, tiny_model_dir):
    folder = getattr(published, preset.partition("_")[0])(tmp_path / "data")
    model = str(tiny_model_dir(max_position_embeddings=1024))
    words = ["--model", "GradientAscent", "--model.model", model, "--config", f"configs/data/{preset}.yaml"]
    words += ["--data.data", str(folder), "--data.tokenizer", model, *(w.format(folder=folder) for w in WORDS[preset])]
    words += ["--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--evaluate.training_max_rows", "0"]
    run(["fit", *words, "--evaluate.max_rows", "1", "--trainer.default_root_dir", str(tmp_path / "run")])
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    for stage in ("before", "after"):
        assert FOUND[preset] <= metrics[stage].keys()
        assert not metrics["failed"][stage]
    samples = read_samples(tmp_path / "run")
    likelihood_alone = {s["set"] for s in samples if "generation" not in s}
    assert likelihood_alone == {s["set"] for s in samples} & {"forget", "retain", "holdout"}
    assert (tmp_path / "run/report.html").is_file()
