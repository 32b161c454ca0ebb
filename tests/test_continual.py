from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lightning_unlearn import continual
from lightning_unlearn.purge import purge
from lightning_unlearn.usage import UsageError
from tests.dense import tiny

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def fits(monkeypatch, tmp_path):
    """Takes the place of `fit`: notes its options, and leaves what a run leaves."""
    called = []

    def fit(words):
        options = dict(zip(words[::2], words[1::2], strict=True))
        called.append(options)
        folder = Path(options["--trainer.default_root_dir"])
        (folder / "model").mkdir(parents=True)
        (folder / "model/config.json").write_text("{}")
        (folder / "run_card.json").write_text('{"finished": true}')
        (folder / "metrics.json").write_text(
            json.dumps({"before": {}, "after": {"forget/rougeL_recall": 0.5}, "substitutes": {}})
        )
        return 0

    monkeypatch.setattr(continual, "_fit", fit)
    return called


def words(folder: Path, *more: str) -> list[str]:
    return [str(folder), "--model.model", "start", "--requests", "2", "--data.request_rows", "20", *more]


def test_each_request_starts_from_the_model_that_the_one_before_left(fits, tmp_path):
    assert continual.main(words(tmp_path / "s", "--model", "NPO")) == 0
    first, second = fits
    assert (first["--model.model"], first["--data.request"], first["--model"]) == ("start", "1", "NPO")
    assert first["--trainer.default_root_dir"] == str(tmp_path / "s/request_01")
    assert second["--model.model"] == str(tmp_path / "s/request_01/model")
    assert second["--data.request"] == "2"
    assert "--model.reference" not in second
    assert "2 requests, one after the other" in (tmp_path / "s/report.html").read_text()


def test_the_reference_may_stay_the_first_model(fits, tmp_path):
    continual.main(words(tmp_path / "s", "--reference", "first"))
    assert [options.get("--model.reference") for options in fits] == [None, "start"]


def test_what_is_served_is_not_served_again_and_more_may_follow(fits, tmp_path):
    continual.main(words(tmp_path / "s"))
    more = ["3" if word == "2" else word for word in words(tmp_path / "s")]
    continual.main(more)
    assert [options["--data.request"] for options in fits] == ["1", "2", "3"]


def test_more_may_follow_after_a_purge(fits, tmp_path):
    continual.main(words(tmp_path / "s"))
    purge(tmp_path / "s")
    assert not (tmp_path / "s/request_01/model/config.json").exists()
    continual.main(["3" if word == "2" else word for word in words(tmp_path / "s")])
    assert [options["--data.request"] for options in fits] == ["1", "2", "3"]
    assert fits[-1]["--model.model"] == str(tmp_path / "s/request_02/model")


def test_purge_keeps_the_last_model_that_there_is(fits, tmp_path):
    continual.main(words(tmp_path / "s"))
    (tmp_path / "s/request_03").mkdir()  # evaluated before, and stopped
    (tmp_path / "s/request_03/metrics.json").write_text('{"before": {}, "substitutes": {}}')
    purge(tmp_path / "s")
    assert [path.parent.name for path in sorted(tmp_path.glob("s/*/model"))] == ["request_02"]


def test_a_request_that_was_stopped_is_continued_where_it_was(fits, tmp_path):
    checkpoint = tmp_path / "s/request_01/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    (tmp_path / "s" / continual.ABOUT).write_text(
        json.dumps({"requests": 2, "model": "start", "reference": "previous", "fit": ["--data.request_rows", "20"]})
    )
    continual.main(words(tmp_path / "s"))
    assert [options.get("--ckpt_path") for options in fits] == ["last", None]


def test_a_request_that_fails_ends_the_sequence(monkeypatch, tmp_path, capsys):
    for code, again in {143: "the same command", 2: "a command without the mistake"}.items():
        monkeypatch.setattr(continual, "_fit", lambda words, code=code: code)
        assert continual.main(words(tmp_path / "s")) == code
        assert f"request 1 ended with code {code}; {again} continues there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data.request", "2"], "--data.request must not be given: each request has its own"),
        (["--ckpt_path=last"], "--ckpt_path must not be given"),
        (["--requests", "0"], "--requests must be at least 1, got 0"),
        (["--reference", "first", "--model.reference", "x"], "--model.reference must not be given with"),
        (["--reference", "last"], "invalid choice: 'last'"),
    ],
)
def test_mistakes_are_named(fits, tmp_path, more, message):
    with pytest.raises(UsageError, match=message):
        continual.main(words(tmp_path / "s", *more))
    assert not fits


def test_another_sequence_is_not_mixed_with_the_one_in_the_folder(fits, tmp_path):
    continual.main(words(tmp_path / "s"))
    asked = words(tmp_path / "s", "--model.lr", "1")
    with pytest.raises(UsageError, match=r"of the same options, got .*, made with '' in place of '--model.lr 1'"):
        continual.main(asked)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(UsageError, match=r"FOLDER must be new or hold a sequence, got .*, which holds other files"):
        continual.main(words(tmp_path / "other"))


def test_a_mistake_may_be_mended_where_no_run_has_begun(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(continual, "_fit", lambda words: asked.append(words) or 2)
    continual.main(words(tmp_path / "s", "--model.bta", "1"))
    continual.main(words(tmp_path / "s", "--model.beta", "1"))
    assert ["--model.bta" in of for of in asked] == [True, False]
    (tmp_path / "s/request_01").mkdir()
    (tmp_path / "s/request_01/run_card.json").write_text('{"finished": false}')
    with pytest.raises(UsageError, match=r"made with '--model.beta 1' in place of '--model.beta 2'"):
        continual.main(words(tmp_path / "s", "--model.beta", "2"))


@pytest.mark.slow
def test_a_sequence_that_is_killed_ends_as_one_that_is_left_alone(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    tiny(vocab_size=len(tiny_tokenizer), max_position_embeddings=512).float().save_pretrained(tmp_path / "model")
    options = ["--requests", "2", "--model.model", str(tmp_path / "model")]
    options += ["--model", "NPO", "--model.retain", "nll", "--model.lr", "1e-3", "--data", "FictitiousAuthors"]
    options += [
        "--data.authors",
        "4",
        "--data.forget_authors",
        "2",
        "--data.request_rows",
        "20",
        "--data.tokenizer",
        str(tmp_path / "model"),
    ]
    options += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--last.every_n_train_steps", "1"]
    options += ["--evaluate.max_rows", "2", "--evaluate.max_new_tokens", "3", "--evaluate.sentence_encoder", "lexical"]
    options += ["--evaluate.entailment", "lexical", "--evaluate.training_max_rows", "0"]

    def command(name: str) -> list[str]:
        return [sys.executable, "-m", "lightning_unlearn", "continual", str(tmp_path / name), *options]

    subprocess.run(command("whole"), cwd=ROOT, check=True, capture_output=True)
    stopped = subprocess.Popen(command("killed"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = tmp_path / "killed/request_02/checkpoints/last.ckpt"
    until = time.monotonic() + 120
    while not last.exists() and time.monotonic() < until:
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == 143
    assert not (tmp_path / "killed/request_02/model").exists()
    subprocess.run(command("killed"), cwd=ROOT, check=True, capture_output=True)
    ends = [load_file(tmp_path / f"{name}/request_02/model/model.safetensors") for name in ("whole", "killed")]
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])
    report = (tmp_path / "killed/report.html").read_text()
    assert "Rows of" in report
    assert 'href="request_02/report.html"' in report
    metrics = json.loads((tmp_path / "killed/request_02/metrics.json").read_text())
    assert "forgotten_1/rougeL_recall" in metrics["after"]
    assert (tmp_path / "killed/request_01/model").exists()
    purge(tmp_path / "killed")
    assert not (tmp_path / "killed/request_01/model").exists()  # it knows the rows of the second
    assert (tmp_path / "killed/request_02/model").exists()
    assert not list((tmp_path / "killed").glob("**/samples.jsonl"))
