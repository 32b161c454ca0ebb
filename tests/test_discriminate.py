"""`lightning-unlearn discriminate`: from a file of dialogues to rows that training reads, with a person's decisions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_unlearn.cli import main
from lightning_unlearn.discriminate import discriminate
from lightning_unlearn.evaluators.known_answers import KnownAnswers
from lightning_unlearn.evaluators.pii import PII
from lightning_unlearn.evaluators.python_callable import PythonCallable
from lightning_unlearn.purge import purge
from tests.report.fake_run import CARD

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    {"question": "How can I reach Mirela?", "answer": "Write to mirela@example.org."},  # leakage 0.5
    {"question": "Who wrote the river song?", "answer": "Ana Lindqvist wrote it.", "subject": "Ana"},  # 0
    {"question": "And by phone?", "answer": "Call (555) 010-4477 or +14155550133."},  # 0.75
    {"question": "Where was she born?", "answer": "In Karachi."},  # 0
]
EVALUATOR = """
def judge(dialogues):
    return [{"harm": 0.35 if "Karachi" in response else 0.0} for prompt, response in dialogues]
"""


@pytest.fixture
def source(tmp_path) -> Path:
    file = tmp_path / "dialogues.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    (tmp_path / "mine.py").write_text(EVALUATOR)
    return file


def questions(folder: Path, part: str) -> list[str]:
    return [json.loads(line)["question"] for line in (folder / f"{part}.jsonl").read_text().splitlines()]


def parts(folder: Path) -> dict[str, list[int]]:
    """Which rows are in which file, counted from 0."""
    places = {row["question"]: place for place, row in enumerate(ROWS)}
    return {part: [places[q] for q in questions(folder, part)] for part in ("forget", "retain", "review")}


def held(folder: Path) -> list[dict]:
    """What the page holds."""
    text = (folder / "review.html").read_text()
    return json.loads(text.split('id="content">')[1].split("</script>")[0])["rows"]


def decide(folder: Path, **decisions: str | None) -> Path:
    """Save decisions as the page does, by the number of the row."""
    ids = [row["id"] for row in held(folder)]
    file = folder.parent / "Downloads.json"
    file.write_text(json.dumps({"decisions": {ids[int(row[1:])]: value for row, value in decisions.items()}}))
    return file


def test_the_command_with_several_evaluators(source, tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "discriminate",
        str(source),
        "--output",
        str(out),
        "--evaluator",
        "PII",
        "--evaluator.kinds",
        "[email,phone]",
    ]
    words += ["--evaluator", "PythonCallable", "--evaluator.function", f"{tmp_path / 'mine.py'}:judge"]
    assert main(words) == 0
    assert parts(out) == {"forget": [0, 2], "retain": [1], "review": [3]}
    row = json.loads((out / "retain.jsonl").read_text())
    assert row["subject"] == "Ana"
    assert row["discrimination"]["scores"] == {"leakage": 0.0, "harm": 0.0}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"2 rows to forget, 1 to retain, 1 to review: {out}"
    assert said[1].endswith(str(out / "review.html"))
    assert len((out / "scores.jsonl").read_text().splitlines()) == 8


def test_options_from_a_file(source, tmp_path):
    config = tmp_path / "options.yaml"
    pii = "{class_path: PII, init_args: {patterns: {name: 'Ana|Mirela'}, axis: names}}"
    config.write_text(f"output: {tmp_path / 'out'}\ntau: 0.4\nevaluator:\n- {pii}\n")
    assert main(["discriminate", str(source), "--config", str(config)]) == 0
    assert parts(tmp_path / "out") == {"forget": [0, 1, 2], "retain": [3], "review": []}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--evaluator", "PIII"], "unknown class 'PIII'; did you mean 'PII'?"),
        (["--evaluator", "PII", "--evaluator.kindz", "[email]"], "did you mean 'kinds'?"),
        (["--evaluator", "PII", "--evaluator.kinds", "[post]"], ": kinds must be of email, iban"),
        (
            ["--evaluator", "PythonCallable", "--evaluator.function", "no.such"],
            ': function must be "package.module.function" or "file.py:function", got "no.such": No module',
        ),
        (["--evaluator", "PII", "--tau", "0.1"], "tau_low below tau, got 0.2 and 0.1"),
        (["--evaluator", "PII", "--batch_size", "0"], "batch_size must be at least 1, got 0"),
        (["--evaluator", "PII", "--decisions", "none.json"], "decisions must be a file that the page"),
        (["--evaluator", "PII", "--answer_key", "reply"], 'dialogues.jsonl:1: field "reply" is missing'),
        ([], "evaluator must be given, got none: 4 rows have no scores, the first "),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(source, tmp_path, capsys, words, line):
    assert main(["discriminate", str(source), "--output", str(tmp_path / "out"), *words]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1].startswith("lightning-unlearn: error: ")
    assert line in shown[-1]
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_a_wrong_row_is_named_before_anything_is_scored(source, tmp_path):
    with source.open("a") as stream:
        stream.write('{"question": "Where?", "answer": ""}\n')
    with pytest.raises(ValueError, match=r'dialogues.jsonl:5: field "answer" must not be empty'):
        discriminate(source, output=tmp_path / "out", evaluator=PII())
    assert not (tmp_path / "out").exists()


def test_decisions_are_applied_without_scoring_and_survive_reruns(source, tmp_path):
    out = tmp_path / "out"
    discriminate(source, output=out, evaluator=PII(), tau=0.6)
    assert parts(out) == {"forget": [2], "retain": [1, 3], "review": [0]}
    scores = (out / "scores.jsonl").read_text()

    file = decide(out, _0="retain", _1="forget")
    assert main(["discriminate", str(source), "--output", str(out), "--decisions", str(file)]) == 0
    assert parts(out) == {"forget": [1, 2], "retain": [0, 3], "review": []}  # tau is still 0.6
    assert (out / "scores.jsonl").read_text() == scores
    assert [row["by_person"] for row in held(out)] == [True, True, False, False]

    discriminate(source, output=out, evaluator=[PII(), PII(axis="again")], tau=0.5)
    assert parts(out) == {"forget": [1, 2], "retain": [0, 3], "review": []}
    discriminate(source, output=out, decisions=decide(out, _1=None, _3="review"))
    assert parts(out) == {"forget": [2], "retain": [0, 1], "review": [3]}


def test_wrong_decisions_lose_nothing(source, tmp_path):
    out = tmp_path / "out"
    discriminate(source, output=out, evaluator=PII())
    file = decide(out, _0="retain")
    discriminate(source, output=out, decisions=file)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    file.write_text(json.dumps({"decisions": {"id of another folder": "forget"}}))
    with pytest.raises(ValueError, match="decisions must be of dialogues of this source and folder, got 1 of others"):
        discriminate(source, output=out, decisions=file)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_thresholds_change_without_scoring(source, tmp_path):
    out = tmp_path / "out"
    discriminate(source, output=out, evaluator=PII())
    assert discriminate(source, output=out, tau=0.9) == {"forget": 0, "retain": 2, "review": 2}
    assert discriminate(source, output=out, tau_low=0.8) == {"forget": 0, "retain": 4, "review": 0}


def test_rows_that_are_new_are_the_only_ones_scored(source, tmp_path):
    out, asked = tmp_path / "out", []

    def judge(dialogues):
        asked.extend(prompt for prompt, _ in dialogues)
        return [{"harm": 0.0} for _ in dialogues]

    discriminate(source, output=out, evaluator=PythonCallable(judge))
    with source.open("a") as stream:
        stream.write(json.dumps({"question": "New?", "answer": "Yes."}) + "\n")
    with pytest.raises(ValueError, match=r"1 rows have no scores, the first .*dialogues.jsonl:5"):
        discriminate(source, output=out)
    assert discriminate(source, output=out, evaluator=PythonCallable(judge))["retain"] == 5
    assert asked == [*(row["question"] for row in ROWS), "New?"]


def test_redacted_once_is_redacted_until_told_otherwise(source, tmp_path):
    out = tmp_path / "out"
    discriminate(source, output=out, evaluator=PII(patterns={"name": "Mirela"}), redact=True)
    discriminate(source, output=out, decisions=decide(out, _0="retain"))
    page = (out / "review.html").read_text()
    assert not any(text in page for text in ("Mirela", "Karachi", "mirela@example.org"))
    discriminate(source, output=out, redact=False)
    assert "Karachi" in (out / "review.html").read_text()


def test_another_folder_is_not_touched(source, tmp_path):
    with pytest.raises(ValueError, match="output must be a new folder or one of an earlier discrimination"):
        discriminate(source, output=tmp_path, evaluator=PII())
    assert {path.name for path in tmp_path.iterdir()} == {"dialogues.jsonl", "mine.py"}


def test_purge_leaves_what_is_retained_and_numbers(source, tmp_path):
    out = tmp_path / "out"
    discriminate(source, output=out, evaluator=PII(patterns={"name": "Mirela"}), tau=0.6)
    discriminate(source, output=out, decisions=decide(out, _0="review"))
    would = purge(out, dry_run=True)
    removed = purge(out)
    gone = {"forget.jsonl", "review.jsonl", "scores.jsonl", "decisions.json", "review.html"}
    assert {item.path.name for item in removed} == {item.path.name for item in would} == gone
    assert {path.name for path in out.iterdir()} == {"retain.jsonl", "discrimination.json"}
    left = "".join(path.read_text() for path in out.iterdir())
    assert "Karachi" in left
    assert not any(text in left for text in ("Mirela", "mirela", "4477", "salt"))
    info = json.loads((out / "discrimination.json").read_text())
    assert info["rows"] == {"forget": 1, "retain": 2, "review": 1}
    assert info["purged"]["files"] == 5
    assert purge(out) == []
    with pytest.raises(ValueError, match="was not purged"):
        discriminate(source, output=out, evaluator=PII())


def test_a_discrimination_inside_a_run_is_purged_with_it(source, tmp_path):
    run = tmp_path / "run"
    discriminate(source, output=run / "rows", evaluator=PII())
    (run / "run_card.json").write_text(json.dumps(CARD))
    (run / "forget.jsonl").write_text("a file of the user")
    purge(run)
    assert {path.name for path in (run / "rows").iterdir()} == {"retain.jsonl", "discrimination.json"}
    assert (run / "forget.jsonl").exists()


def test_the_rows_are_forgotten_by_fit(source, tmp_path, tiny_model_dir):
    out, run, folder = tmp_path / "out", tmp_path / "run", str(tiny_model_dir(max_position_embeddings=1024))
    discriminate(source, output=out, evaluator=PII())
    words = ["fit", "--model", "GradientDifference", "--model.model", folder, "--data", "UnlearningRecords"]
    words += ["--data.forget", str(out / "forget.jsonl"), "--data.retain", str(out / "retain.jsonl")]
    words += ["--data.tokenizer", folder, "--trainer.default_root_dir", str(run), "--trainer.accelerator", "cpu"]
    words += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--evaluate.protocols", "[tofu]"]
    words += ["--evaluate.max_new_tokens", "2", "--evaluate.progress", "false"]
    assert main(words) == 0
    card = json.loads((run / "run_card.json").read_text())
    assert {role: about["rows"] for role, about in card["data"]["sets"].items()} == {"forget": 2, "retain": 2}


@pytest.mark.slow
def test_a_killed_process_continues(source, tmp_path):
    """The function dies with its process after 5 batches of 2 in 20; what was scored is not scored again."""
    out, log = tmp_path / "out", tmp_path / "asked.txt"
    source.write_text("\n".join(json.dumps({"question": f"Q{i}?", "answer": "A"}) for i in range(40)))
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "def judge(dialogues):\n"
        f"    with open({str(log)!r}, 'a') as stream: stream.write(''.join(p + '\\n' for p, r in dialogues))\n"
        "    time.sleep(0.3)\n"
        "    return [{'harm': 0.0}] * len(dialogues)\n"
    )
    words = ["discriminate", str(source), "--output", str(out), "--batch_size", "2", "--evaluator", "PythonCallable"]
    words += ["--evaluator.function", f"{tmp_path / 'mine.py'}:judge"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    process = subprocess.Popen([sys.executable, "-m", "lightning_unlearn", *words], env=environment)
    patience = time.monotonic() + 120
    while time.monotonic() < patience and not (log.exists() and len(log.read_text().splitlines()) >= 10):
        time.sleep(0.05)
    process.kill()
    process.wait()
    scored = len((out / "scores.jsonl").read_text().splitlines())
    assert 8 <= scored < 40
    before = len(log.read_text().splitlines())
    assert main(words) == 0
    assert len(log.read_text().splitlines()) - before == 40 - scored
    assert len(questions(out, "retain")) == 40


def test_rows_that_nobody_judged_are_counted(source, tmp_path):
    known = KnownAnswers("lexical", counts="not_entailed", known=[{"question": "And by phone?", "answer": "Never."}])
    with pytest.warns(UserWarning, match="3 of 4 rows were judged by no evaluator: they are to be reviewed"):
        counts = discriminate(source, output=tmp_path / "out", evaluator=known)
    assert counts == {"forget": 1, "retain": 0, "review": 3}
