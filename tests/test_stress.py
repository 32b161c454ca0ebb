"""`lightning-unlearn stress` from the command line, on tiny models that know, never knew, or seem to have forgotten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lightning_unlearn import stress as command
from lightning_unlearn.attacks.prefixes import Prefixes
from lightning_unlearn.attacks.quantization import Quantization
from lightning_unlearn.attacks.relearning import Relearning
from lightning_unlearn.callbacks.run_card import data_settings
from lightning_unlearn.cli import main
from lightning_unlearn.data.unlearning_records import UnlearningRecords
from lightning_unlearn.models import save_model
from lightning_unlearn.purge import purge
from lightning_unlearn.stress import stress
from tests.attacks.exams import FORGET, RETAIN, taught
from tests.report.fake_run import CARD


def lines(records) -> str:
    fields = ("question", "answer", "subject", "paraphrased_question", "paraphrased_answer", "perturbed_answers")
    return "".join(json.dumps({name: getattr(r, name) for name in fields}) + "\n" for r in records)


@pytest.fixture(scope="module")
def world(tiny_model_dir, tmp_path_factory) -> Path:
    """Rows, a model that knows them, one that learned the retain rows alone, and a run folder."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "forget.jsonl").write_text(lines(FORGET))
    (folder / "retain.jsonl").write_text(lines(RETAIN))
    source = tiny_model_dir()
    data = UnlearningRecords(
        forget=str(folder / "forget.jsonl"), retain=str(folder / "retain.jsonl"), tokenizer=str(source)
    )
    data.setup("test")
    for name, records in (("start", [*FORGET, *RETAIN]), ("retrained", RETAIN)):
        save_model(taught(source, records, steps=100), data.tokenizer, folder / name)
    shutil.copytree(folder / "retrained", folder / "run/model")
    method = {"class": "NPO", "hyperparameters": {"model": str(folder / "start")}}
    card = CARD | {"method": method, "data": data_settings(data), "finished": True}
    (folder / "run/run_card.json").write_text(json.dumps(card))
    return folder


@pytest.fixture
def run(world, tmp_path) -> Path:
    return shutil.copytree(world / "run", tmp_path / "run")


FEW = ("--max_rows", "3", "--max_new_tokens", "24")
TWO = ("--attacks", "Quantization", "--attacks.bits", "[4]", "--attacks", "Relearning", "--attacks.k", "2")


def test_attacks_of_a_run(run, world, capsys):
    words = ["stress", str(run), "--retrained", str(world / "retrained"), *FEW, *TWO, "--attacks.steps", "[1]"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "quantization: " in out
    assert "relearning_forget: " in out
    assert str(run / "report.html") in out
    found = {file.stem: json.loads(file.read_text()) for file in (run / "stress").iterdir()}
    assert set(found) == {"quantization", "relearning_forget"}
    for content in found.values():
        assert list(content["curves"]) == ["unlearned", "start", "retrained"]
        assert content["recovered"]["share"] == pytest.approx(0)  # the run's model is the retrained one
        assert content["recovered"]["verdict"] == "holds"
    assert found["quantization"]["options"]["bits"] == [4]
    assert found["relearning_forget"]["options"]["k"] == 2
    texts = [text for r in (*FORGET, *RETAIN) for text in (r.question, r.answer)]
    held = "".join(file.read_text() for file in (run / "stress").iterdir())
    assert not any(text in held for text in texts)
    assert not [removed for removed in purge(run, dry_run=True) if "stress" in str(removed)]


def test_finished_pairs_are_kept_and_a_stopped_one_goes_on(run, world, monkeypatch):
    measured, real = [], Quantization._scores

    def scores(self, model, exam, bits):
        measured.append(bits)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return real(self, model, exam, bits)

    monkeypatch.setattr(Quantization, "_scores", scores)
    options = {"attacks": Quantization(bits=[8, 4]), "max_rows": 2, "max_new_tokens": 4, "start": None}
    with pytest.raises(KeyboardInterrupt):
        stress(run, retrained=str(world / "retrained"), **options)
    assert measured == [8, 4, 8]  # the unlearned model, then the retrained one
    stress(run, retrained=str(world / "retrained"), **options)
    assert measured == [8, 4, 8, 8, 4]
    (results,) = stress(run, retrained=str(world / "retrained"), **options)
    assert measured == [8, 4, 8, 8, 4]
    assert [[point["x"] for point in points] for points in results.curves.values()] == [[32, 8, 4]] * 2


def test_an_attack_that_fails_is_named_and_the_others_run(run, monkeypatch, capsys):
    def fails(self, model, exam, bits):
        raise RuntimeError("no memory for this")

    monkeypatch.setattr(Quantization, "_scores", fails)
    assert main(["stress", str(run), "--start", "null", *FEW, *TWO, "--attacks.steps", "[1]"]) == 1
    assert "failed: quantization, unlearned model: RuntimeError: no memory for this" in capsys.readouterr().err
    assert len(json.loads((run / "stress/relearning_forget.json").read_text())["curves"]["unlearned"]) == 2
    failed = json.loads((run / "stress/quantization.json").read_text())
    assert failed["failed"] == {"unlearned": "RuntimeError"}
    assert [point["x"] for point in failed["curves"]["unlearned"]] == [32]  # what was measured is kept


def test_a_model_without_a_run(world, tmp_path, capsys):
    words = ["stress", str(world / "start"), *FEW, "--attacks", "Prefixes", "--data", "UnlearningRecords"]
    words += ["--data.forget", str(world / "forget.jsonl"), "--data.tokenizer", str(world / "start")]
    assert main(words) == 2
    assert "output must be given for a model that is in no run folder" in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "found")]) == 0
    assert "prefixes: how much came back cannot be told" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "found/stress").iterdir()] == ["prefixes.json"]


def test_by_default_all_attacks_that_suit_the_rows(world, run, monkeypatch, capsys):
    asked = [Prefixes(), Relearning(k=6), Quantization(bits=[4])]
    monkeypatch.setattr(command, "default_attacks", lambda: asked)
    with pytest.warns(UserWarning, match="relearning_forget is left out: k must leave forget rows"):
        assert main(["stress", str(run), "--start", "null", "--max_rows", "2", "--max_new_tokens", "4"]) == 0
    why = "k must leave forget rows that are not shown, got 6 of 2"
    assert f"relearning_forget: left out: {why}" in capsys.readouterr().out
    assert json.loads((run / "stress/relearning_forget.json").read_text())["left_out"] == why
    page = (run / "report.html").read_text()
    assert page.count("Left out: relearning some of the rows.") == 2
    assert f"Relearning some of the rows was left out: {why}." in page
    asked[1] = Relearning(k=1, steps=[1])
    stress(run, start=None, max_rows=2, max_new_tokens=4)
    content = json.loads((run / "stress/relearning_forget.json").read_text())
    assert content["left_out"] == ""
    assert len(content["curves"]["unlearned"]) == 2


def test_rows_that_were_not_asked_are_told(run, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"question": FORGET[0].question, "french": "Où vit A ?"}))
    words = ["--attacks", "Paraphrases", "--attacks.file", str(tmp_path / "prompts.jsonl")]
    assert main(["stress", str(run), "--start", "null", "--max_new_tokens", "4", *words]) == 0
    rows = ", ".join(f"forget {number}" for number in range(1, 6))
    told = f"  1 of 6 forget rows asked at every point, left out: {rows} (there is no other way to ask it)\n"
    assert told in capsys.readouterr().out
    for point in json.loads((run / "stress/paraphrases.json").read_text())["curves"]["unlearned"]:
        assert [row["index"] for row in point["failed"]] == [1, 2, 3, 4, 5]
    page = (run / "report.html").read_text()
    assert "<td>1 of 6</td>" in page
    assert page.count("there is no other way to ask it") == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--start", "no/such"], "start: model must be the name or folder of a causal LM"),
        (["--retrained", "no/such", *TWO], "retrained: model must be the name or folder of a causal LM"),
        (["--batch_size", "0", *TWO], "batch_size must be at least 1, got 0"),
        (["--attacks", "Relearning", "--attacks.k", "6"], "k must leave forget rows that are not shown, got 6 of 6"),
        (["--attacks", "Prefixes", "--attacks", "Prefixes"], "attacks must differ by name, got prefixes twice"),
        (["--attacks", "Relearning", "--attacks.k", "few"], "attacks.k must be int, got 'few'"),
        (["--attacks", "Quantization", "--attacks.bits", "4"], "attacks.bits must be Sequence, got '4'"),
        (["--dtype", "float7", *TWO], "dtype must be the name of a floating-point dtype of torch, got 'float7'"),
        (["--attacks", "LayerProbe", "--attacks.layers", "[99]"], "layer_probe: layers must be in [-2, 2), got [99]"),
        (
            ["--attacks", "Relearning", "--attacks.steps", "[]"],
            "steps must be at least 1 each, and one at least, got []",
        ),
        (["--attacks", "Paraphrases", "--attacks.file", "no.jsonl"], "paraphrases: file: no.jsonl: no such file"),
        (["--attacks", "Prefixes", "--attacks.file", "no.txt"], "file: no.txt: no such file"),
        (["--attacks", "[]"], "attacks must hold an attack, got []"),
        (["--output", __file__, *TWO], "output must be a folder, got the file"),
        (["--attacks", "Prefix"], "attacks: unknown class 'Prefix'; did you mean 'Prefixes'"),
        (["--atacks", "Prefixes"], "unknown option '--atacks'; did you mean '--attacks'"),
    ],
)
def test_mistakes_are_told_in_one_line(run, capsys, words, message):
    assert main(["stress", str(run), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "stress").exists()  # told before any attack


def test_a_folder_without_a_model(tmp_path, capsys):
    assert main(["stress", str(tmp_path)]) == 2
    assert "run must be a run folder with model/, or the folder of a model" in capsys.readouterr().err
