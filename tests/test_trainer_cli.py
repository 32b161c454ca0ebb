"""`fit` and its like: options, run folder, resume, and mistakes in one line."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning import Trainer

from lightning_unlearn.cli import main
from lightning_unlearn.losses import RETAIN_TERMS
from lightning_unlearn.purge import purge
from lightning_unlearn.trainer_cli import UnlearnCLI, default_run_folder

ROOT = Path(__file__).resolve().parent.parent
QUICK = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]
QUICK += ["--evaluate.max_rows", "2", "--evaluate.training_max_rows", "1", "--evaluate.max_new_tokens", "4"]
QUICK += ["--evaluate.protocols", "[tofu]", "--evaluate.progress", "false"]


@pytest.fixture(scope="module")
def folder(tiny_model_dir) -> str:
    return str(tiny_model_dir(max_position_embeddings=1024))


@pytest.fixture
def words(folder) -> list[str]:
    """A fit of 10 steps: 20 forget rows, 4 a step, 2 epochs."""
    data = [
        "--data",
        "FictitiousAuthors",
        "--data.authors",
        "3",
        "--data.forget_authors",
        "1",
        "--data.batch_size",
        "4",
    ]
    model = ["--model", "GradientDifference", "--model.model", folder, "--model.lr", "1e-3"]
    return ["fit", *model, *data, "--data.tokenizer", folder, *QUICK]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def losses(run: Path) -> dict[int, float]:
    """Step -> train/loss, over all log versions; later ones win."""
    import pandas

    found = {}
    for version in sorted(run.glob("logs/version_*/metrics.csv")):
        table = pandas.read_csv(version).dropna(subset=["train/loss"])
        found |= dict(zip(table["step"].astype(int), table["train/loss"], strict=True))
    return found


def test_a_cached_reference_lies_in_the_run_and_purge_finds_it(words, tmp_path):
    run = tmp_path / "run"
    words = [*words, "--model.retain", "kl", "--model.reference", "cache"]
    assert main([*words, "--trainer.default_root_dir", str(run)]) == 0
    card = json.loads((run / "run_card.json").read_text())
    assert card["method"]["hyperparameters"]["reference"] == "cache"
    cached = {path for path in run.glob("reference_cache/*/*") if path.is_file()}
    assert len(cached) == 3  # values, index, and what they are of
    assert cached <= {removed.path for removed in purge(run)}
    assert not (run / "reference_cache").exists()


def test_update_rules_optimisers_and_callbacks_go_by_short_names(words, tmp_path, capsys):
    run = tmp_path / "run"
    words = [
        *words,
        "--trainer.default_root_dir",
        str(run),
        "--model.optimizer",
        "Sophia",
        "--model.optimizer.lr",
        "1e-4",
    ]
    words += ["--model.update", "GaussNewton", "--model.update.rule", "SAM", "--model.update.rule.rho", "0.05"]
    words += ["--trainer.callbacks", "Saliency", "--trainer.callbacks.top", "0.3"]
    assert main(words) == 0
    card = json.loads((run / "run_card.json").read_text())
    expected = "GaussNewton(every=10, seed=0, rule=SAM(rho=0.05))"
    assert card["method"]["hyperparameters"]["update"] == expected
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["saliency"]
    assert main([*words, "--model.update", "SAMM"]) == 2
    assert "unknown class 'SAMM'; did you mean 'SAM'?" in capsys.readouterr().err


def test_fit_makes_a_run_folder(words, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*words, "--trainer.default_root_dir", str(run), "--checkpoint.monitor", "eval/model_utility"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {run / 'report.html'}"
    made = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.json", "samples.jsonl", "run_card.json", "report.html"} <= made
    assert {"checkpoints/last.ckpt", "checkpoints/best.ckpt"} <= made
    assert {"model/model.safetensors", "model/config.json", "model/tokenizer.json"} <= made
    assert not [name for name in made if name.endswith("config.yaml") and name != "config.yaml"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["class_path"].endswith(".GradientDifference")
    assert config["seed_everything"] == 42
    assert sorted(losses(run)) == list(range(10))


def test_without_a_metric_only_the_last_checkpoint_is_kept(words, tmp_path):
    assert main([*words, "--trainer.default_root_dir", str(tmp_path), "--last.every_n_train_steps", "3"]) == 0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 9


@pytest.mark.parametrize(("stop", "every"), [(1, 2), (5, 2), (7, 2), (6, 5), (4, 4)])
def test_a_stopped_fit_continues_to_the_same_end(words, tmp_path, monkeypatch, stop, every):
    from lightning_unlearn.objectives.gradient_difference import GradientDifference

    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    words += ["--last.every_n_train_steps", str(every)]
    assert main([*words, "--trainer.default_root_dir", str(unbroken)]) == 0

    step = GradientDifference.training_step

    def dying(self, batch, batch_idx):
        if self.global_step == stop:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    again = [*words, "--trainer.default_root_dir", str(broken), "--ckpt_path", "last"]
    with monkeypatch.context() as patch:
        patch.setattr(GradientDifference, "training_step", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            main(again)
    assert main(again) == 0

    assert losses(broken) == pytest.approx(losses(unbroken), rel=1e-5)
    expected = weights(unbroken)
    for name, value in weights(broken).items():
        torch.testing.assert_close(value, expected[name], msg=name)


@pytest.mark.slow
def test_a_killed_process_continues_to_the_same_end(words, tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    words += ["--last.every_n_train_steps", "1", "--ckpt_path", "last", "--trainer.max_epochs", "8"]
    assert main([*words, "--trainer.default_root_dir", str(unbroken)]) == 0

    again = [*words, "--trainer.default_root_dir", str(broken)]
    process = subprocess.Popen([sys.executable, "-m", "lightning_unlearn", *again], cwd=ROOT)
    last, patience = broken / "checkpoints/last.ckpt", time.monotonic() + 300
    while not last.exists() and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert last.exists()
    assert not (broken / "report.html").exists(), "the process ended before it could be killed"

    assert main(again) == 0
    expected = weights(unbroken)
    for name, value in weights(broken).items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_a_refused_folder_keeps_its_config(words, tmp_path, capsys):
    run = ["--trainer.default_root_dir", str(tmp_path)]
    assert main([*words, *run]) == 0
    before = (tmp_path / "config.yaml").read_text()
    assert main([*words, *run, "--model.lr", "0.5"]) == 2
    assert "expected a folder without a run" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == before


def test_saved_config_repeats_the_run(words, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*words, "--trainer.default_root_dir", str(first), "--trainer.max_steps", "2"]) == 0
    made = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    again = ["fit", "--config", str(first / "config.yaml"), "--trainer.default_root_dir", str(second)]
    assert main(again) == 0
    assert losses(second) == losses(first)
    assert (second / "checkpoints/last.ckpt").exists()
    assert yaml.safe_load((second / "config.yaml").read_text())["checkpoint"]["save_top_k"] == 1
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == made


def test_saved_config_of_a_resumed_run_starts_from_the_start(words, tmp_path):
    run = ["--trainer.default_root_dir", str(tmp_path), "--trainer.max_steps", "2"]
    assert main([*words, *run]) == 0
    assert main([*words, *run, "--ckpt_path", "last"]) == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["ckpt_path"] is None


def test_the_trained_run_can_be_tested_again(words, tmp_path):
    run = tmp_path / "run"
    assert main([*words, "--trainer.default_root_dir", str(run), "--trainer.max_steps", "2"]) == 0
    checkpoint = str(run / "checkpoints/last.ckpt")
    assert main(["test", *words[1:], "--trainer.default_root_dir", str(run), "--ckpt_path", checkpoint]) == 0
    assert "test" in json.loads((run / "metrics.json").read_text())


def test_redact_reaches_every_callback_that_writes_text(words, tmp_path):
    run = tmp_path / "run"
    options = ["--trainer.default_root_dir", str(run), "--trainer.max_steps", "1", "--redact", "true"]
    assert main([*words, *options]) == 0
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    questions = {record.question for records in sets(words).values() for record in records}
    assert samples
    assert not {sample["question"] for sample in samples} & questions
    for name in ("report.html", "run_card.json", "config.yaml", "metrics.json"):
        text = (run / name).read_text()
        assert not [question for question in questions if question in text], name


def sets(words: list[str]) -> dict:
    return UnlearnCLI(words[1:], run=False).datamodule.evaluation_sets()


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (["--trainer.max_epochz", "3"], "unknown option '--trainer.max_epochz'; did you mean '--trainer.max_epochs'?"),
        (["--model.forget_wieght", "3"], "unknown option 'model.forget_wieght'; did you mean 'forget_weight'?"),
        (["--model.forget_weight", "much"], "model.forget_weight must be float, got 'much'"),
        (["--model.lora.rank", "3"], "unknown option 'model.lora.rank'"),
        (["--trainer.max_steps", "few"], "trainer.max_steps must be int, got 'few'"),
        (["--evaluate.max_rows", "all"], "evaluate.max_rows must be int, got 'all'"),
        (
            ["--model.retain", "klx"],
            f"retain must be one of {', '.join(RETAIN_TERMS)}, got 'klx'",
        ),
        (["--model", "GradientDiference"], "unknown class 'GradientDiference'; did you mean 'GradientDifference'?"),
        (["--data", "FictitiousAuthor"], "unknown class 'FictitiousAuthor'; did you mean 'FictitiousAuthors'?"),
        (["--config", "no/such.yaml"], "File does not exist"),
        (["--model.model", "no/such/folder"], "no/such/folder"),
        (["--data.tokenizer", "no/such/folder"], "no/such/folder"),
        (["--data.authors", "1"], "forget_authors must be in [1, authors = 1), got 1"),
        (["--ckpt_path", "no/such.ckpt"], "no/such.ckpt"),
        (["--model", "IdkNLL", "--data.refusals", "[]"], "IdkNLL needs the roles"),
        (["--data.tokens_per_batch", "900"], "only one of batch_size and tokens_per_batch may be given"),
        (["--data.batch_size", "null", "--data.tokens_per_batch", "9"], "tokens_per_batch must be at least "),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(words, tmp_path, capsys, extra, line):
    assert main([*words, "--trainer.default_root_dir", str(tmp_path), *extra]) == 2
    errors = [shown for shown in capsys.readouterr().err.splitlines() if "error" in shown]
    assert len(errors) == 1
    assert errors[0].startswith("lightning-unlearn: error: ")
    assert line in errors[0]


def test_a_token_budget_is_an_option_of_every_data_module(words, tmp_path):
    options = ["--data.batch_size", "null", "--data.tokens_per_batch", "900"]
    cli = UnlearnCLI([*words[1:], *options, "--trainer.default_root_dir", str(tmp_path)], run=False)
    assert (cli.datamodule.batch_size, cli.datamodule.tokens_per_batch) == (None, 900)
    cli.trainer.fit(cli.model, cli.datamodule)
    loader = cli.trainer.train_dataloader
    assert cli.trainer.global_step == 2 * len(loader)
    assert max(len(batch.input_ids) for batch in loader) <= 900


def test_what_is_missing_is_named(capsys):
    assert main(["fit"]) == 2
    assert capsys.readouterr().err == "lightning-unlearn: error: missing --data, --model\n"


def test_rows_of_ones_own_with_a_mistake(words, folder, tmp_path, capsys):
    """The reader's message names file, row and field; it comes through as it is."""
    rows = tmp_path / "forget.jsonl"
    rows.write_text('{"question": "Who?", "answer": "Ana."}\n{"question": "Where?"}\n')
    options = ["--data", "UnlearningRecords", "--data.forget", str(rows), "--data.tokenizer", folder]
    model = ["--model", "GradientAscent", "--model.model", folder]
    assert main(["fit", *model, *options, *QUICK, "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lightning-unlearn: error: ")
    assert "forget.jsonl" in line
    assert "answer" in line


def test_default_run_folder_is_the_same_every_time():
    def config(**init):
        model = Namespace(class_path="lightning_unlearn.objectives.idk_nll.IdkNLL")
        return Namespace(model=model, data=Namespace(class_path="x.TOFU", init_args=Namespace(**init)))

    assert default_run_folder(config(forget="forget05")) == "runs/idk_nll-tofu-forget05"
    assert default_run_folder(config(forget="rows/my rows.jsonl")) == "runs/idk_nll-tofu-my_rows"
    assert default_run_folder(config()) == "runs/idk_nll-tofu"


def test_checkpoints_load_with_weights_only_wherever_they_come_from(words, monkeypatch):
    """Lightning's own default unpickles anything that lies behind a URL."""
    seen = {}

    @functools.wraps(Trainer.fit)
    def fit(trainer, model, **options):
        seen.update(options)

    monkeypatch.setattr(Trainer, "fit", fit)
    assert main([*words, "--ckpt_path", "https://example.org/last.ckpt"]) == 0
    assert seen["weights_only"] is True
    assert seen["ckpt_path"] == "https://example.org/last.ckpt"


def test_help_of_an_objective_lists_no_layers_of_pytorch(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--model.help", "NPO"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--model.beta BETA" in shown
    assert "torch.optim.SGD" in shown
    assert "torch.nn.modules" not in shown
    assert len(shown.splitlines()) < 150


def test_another_optimiser_takes_nothing_from_the_default(words, capsys):
    """AdamW's weight decay of 0.01 must not become SGD's, which has none of its own accord."""
    with pytest.raises(SystemExit) as stop:
        main([*words, "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1", "--print_config"])
    assert stop.value.code == 0
    optimizer = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert optimizer["init_args"]["lr"] == 0.1
    assert optimizer["init_args"]["weight_decay"] == torch.optim.SGD([torch.zeros(1)]).defaults["weight_decay"] == 0


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_an_over_long_row_is_reported_by_test_and_named_by_fit(arch, tiny_model_dir, tmp_path, capsys):
    folder = str(tiny_model_dir(arch))
    rows = [{"question": "Who?", "answer": "Ana."}, {"question": "Who wrote " + "it " * 600 + "?", "answer": "Bo."}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["--model", "GradientAscent", "--model.model", folder, "--data", "UnlearningRecords", "--data.tokenizer"]
    words += [folder, "--data.forget", str(tmp_path / "rows.jsonl"), *QUICK]
    words += ["--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["test", *words]) == 0
    (failed,) = json.loads((tmp_path / "run/metrics.json").read_text())["failed"]["test"]
    assert (failed["set"], failed["index"]) == ("forget", 1)
    assert "max_length=512 cuts off the whole answer" in failed["why"]
    assert main(["validate", *words]) == 0
    capsys.readouterr()
    assert main(["fit", *words]) == 2
    assert "rows.jsonl:2: max_length=512 cuts off the whole answer" in capsys.readouterr().err
