"""The light front: what it answers itself, what it hands over, and how it tells a mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_unlearn import __version__
from lightning_unlearn.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])


def said(capsys) -> str:
    """What went to stderr, which must be one line."""
    line = capsys.readouterr().err
    assert line.startswith("lightning-unlearn: error: ")
    assert line.count("\n") == 1
    return line.removeprefix("lightning-unlearn: error: ").rstrip("\n")


def process(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": PYTHONPATH}
    )


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version(option):
    result = process("-m", "lightning_unlearn", option)
    assert result.returncode == 0
    assert result.stdout.startswith("usage" if option == "--help" else f"lightning-unlearn {__version__}")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["report", "--help"], ["nope"]])
def test_light_answers_import_nothing_heavy(words):
    code = (
        "import sys\nfrom lightning_unlearn.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "print('HEAVY', {'torch', 'lightning', 'transformers', 'jsonargparse', 'numpy'} & set(sys.modules))"
    )
    assert "HEAVY set()" in process("-c", code).stdout


def test_no_words_show_the_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {command}" in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["fti"], "unknown command 'fti'; did you mean 'fit'?"),
        (["wash"], "unknown command 'wash'"),
        (["report"], "the following arguments are required: RUN"),
        (["purge", "run", "--dryrun"], "unrecognized arguments: --dryrun"),
        (
            ["report", "run", "--output", "x"],
            "output is for a comparison, the report of one run lies in its folder; got x",
        ),
        (["export", "run"], "the following arguments are required: --output"),
        (
            ["export", "run", "--output", "x", "--merge", "--adapter"],
            "argument --adapter: not allowed with argument --merge",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(words, line, capsys):
    assert main(words) == 2
    assert said(capsys) == line


def test_exit_code_reaches_the_shell():
    result = process("-m", "lightning_unlearn", "fti")
    assert result.returncode == 2
    assert result.stderr == "lightning-unlearn: error: unknown command 'fti'; did you mean 'fit'?\n"


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("LIGHTNING_UNLEARN_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown command"):
        main(["fti"])


def test_errors_of_the_program_keep_their_traceback(monkeypatch):
    def broken(run, redact):
        raise RuntimeError("a bug")

    monkeypatch.setattr("lightning_unlearn.report.write_report", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["report", "run"])


@pytest.mark.parametrize("kind", ["code", "cut", "other"])
def test_a_checkpoint_that_cannot_be_used_is_told_in_one_line(kind, tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    path, trace = tmp_path / "x.ckpt", tmp_path / "executed"

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    torch.save({"state_dict": Code() if kind == "code" else {"weight": torch.zeros(3, 3)}}, path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:200])

    def read(run, redact):
        torch.nn.Linear(2, 2, bias=False).load_state_dict(torch.load(path, weights_only=True)["state_dict"])

    monkeypatch.setattr("lightning_unlearn.report.write_report", read)
    assert main(["report", "run"]) == 2
    start = {"code": "checkpoint refused: it is damaged or holds more than", "cut": "PytorchStreamReader failed"}
    assert said(capsys).startswith(start.get(kind, "Error(s) in loading state_dict for Linear: size mismatch"))
    assert not trace.exists()


def test_report_of_one_run_and_of_several(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        "lightning_unlearn.report.write_report", lambda run, redact: calls.append((run, redact)) or "one.html"
    )
    monkeypatch.setattr(
        "lightning_unlearn.report.write_comparison",
        lambda *given, **options: calls.append((given, options)) or given[1],
    )
    assert main(["report", "a"]) == 0
    assert main(["report", "a", "--redact"]) == 0
    assert main(["report", "a", "b", "--output", "both.html"]) == 0
    assert main(["report", "a", "b", "--format", "latex", "--columns", "x/y", "z"]) == 0
    assert main(["report", "a", "--format", "csv"]) == 0
    assert calls == [
        (Path("a"), None),
        (Path("a"), True),
        (([Path("a"), Path("b")], Path("both.html")), {"form": "html", "columns": None}),
        (([Path("a"), Path("b")], Path("comparison.tex")), {"form": "latex", "columns": ["x/y", "z"]}),
        (([Path("a")], Path("comparison.csv")), {"form": "csv", "columns": None}),
    ]
    assert capsys.readouterr().out == "one.html\none.html\nboth.html\ncomparison.tex\ncomparison.csv\n"


def test_export_hands_over_its_options(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("lightning_unlearn.export.export", lambda *a, **k: calls.append((a, k)) or a[1])
    assert main(["export", "run", "--output", "out", "--adapter"]) == 0
    assert main(["export", "run", "--output", "out"]) == 0
    assert calls == [((Path("run"), Path("out")), {"merge": False}), ((Path("run"), Path("out")), {"merge": True})]


def test_purge_lists_what_it_removes(monkeypatch, capsys):
    held = [Path("run/samples.jsonl")]
    monkeypatch.setattr("lightning_unlearn.purge.purge", lambda run, *, dry_run: list(held) if dry_run else held)
    assert main(["purge", "run", "--dry-run"]) == 0
    assert main(["purge", "run"]) == 0
    held.clear()
    assert main(["purge", "run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["would remove run/samples.jsonl", "removed run/samples.jsonl", "run holds nothing to remove"]
