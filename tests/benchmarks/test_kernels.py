import json
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks import kernels
from benchmarks.kernels import cases, main, parse
from benchmarks.targets import Outcome

FAST = ["unlearn_kernels", "pytorch", "liger-kernel", "quack-kernels"]
SMALL = ["--tokens", "48", "--hidden", "8", "--repeats", "1", "--device", "cpu", "--implementations", *FAST]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_prints_a_table_and_writes_everything(capsys, tmp_path):
    options = [
        "--operations",
        "log_prob",
        "reference_kl",
        "--ignored",
        "0",
        "0.5",
        "--output",
        str(tmp_path),
        "--check",
    ]
    main([*SMALL, "--vocabulary", "500", "1001", "--heads", "trainable", *options, "--profile"])
    out = capsys.readouterr()
    assert out.err.startswith("[1/8] log_prob from hidden, trainable head, 0% ignored, 48 x 8 x 500, float32")
    table = [line for line in out.out.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + 2 * 2 * 2 * 4  # a header; two vocabularies, shares and operations; four implementations
    assert "aten::" in out.out
    assert "not measured  uniform_kl: plain PyTorch" in out.out
    machine, *records = lines(tmp_path / "results.jsonl")
    assert machine["torch"]
    assert len(records) == 32
    ours = [r["measurement"] for r in records if r["measurement"]["implementation"] == "unlearn_kernels"]
    assert all(0 < m["p20_seconds"] <= m["median_seconds"] <= m["p80_seconds"] for m in ours)
    assert all(max(m["errors"].values()) < 1e-4 for m in ours)
    absent = [r["measurement"] for r in records if r["measurement"]["implementation"] == "quack-kernels"]
    assert all(m["why_not"] and m["median_seconds"] is None for m in absent)
    page = (tmp_path / "table.md").read_text()
    assert all(line in page for line in table)
    assert page.startswith("`python -m benchmarks.kernels --tokens 48")
    for name in ("roofline.svg", "memory.svg"):
        ElementTree.fromstring((tmp_path / name).read_text())
    assert len(list(tmp_path.glob("trace-*.json.gz"))) == 8


def test_what_is_in_the_output_is_not_run_again(capsys, monkeypatch, tmp_path):
    options = [*SMALL, "--vocabulary", "300", "--operations", "log_prob", "--ignored", "0", "--output", str(tmp_path)]
    main([*options, "--heads", "frozen"])
    main([*options, "--logits"])
    err = capsys.readouterr().err
    assert err.count("frozen head") == 1
    assert "[4/4] log_prob from row gradient, 0% ignored, 48 x 300" in err
    assert len(lines(tmp_path / "results.jsonl")) == 1 + 3 * 4 + 2 * 2  # hidden twice and logits; passes on their own
    monkeypatch.setattr(kernels, "measure", None)
    main([*options, "--logits"])  # draws again, measures nothing
    monkeypatch.setattr(kernels.tables, "environment", lambda device: {"device": "another"})
    with pytest.raises(SystemExit, match="--output: expected"):
        main(options)


def test_no_case_is_begun_when_the_time_is_up(capsys):
    main([*SMALL, "--vocabulary", "300", "--operations", "log_prob", "--ignored", "0", "--minutes", "1e-9"])
    assert "2 of 2 cases not begun: the 1e-09 minutes were up." in capsys.readouterr().out


def test_a_missed_target_is_status_1(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "run", lambda arguments, earlier: [])
    monkeypatch.setattr(kernels, "cpu_targets", lambda results: [Outcome("fast", 2.0, True, "here")])
    main([*SMALL, "--check"])
    assert "met           fast: 2 (here)" in capsys.readouterr().out
    monkeypatch.setattr(kernels, "cpu_targets", lambda results: [Outcome("fast", 2.0, False, "here")])
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, "--check"])
    assert stop.value.code == 1
    main(SMALL)


def test_options_replace_what_the_preset_says():
    chosen = cases(parse(["--preset", "small", "sweep", "--device", "cpu"]))
    assert {case.vocabulary for case in chosen} > {8000, 32000}
    assert len(set(chosen)) == len(chosen)
    changed = cases(
        parse(["--preset", "issue", "--device", "cpu", "--tokens", "8", "--dtype", "bfloat16", "--ignored", "0"])
    )
    assert {(case.shape, case.dtype, case.ignored) for case in changed} == {("8 x 512 x 128256", "bfloat16", 0.0)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "0"], "--tokens: expected positive numbers, got [0]"),
        (["--repeats", "-1"], "--repeats: expected positive numbers, got -1"),
        (["--ignored", "1.0"], "--ignored: expected shares of at least 0 and less than 1, got 1.0"),
        (["--operations", "perplexity"], "argument --operations: invalid choice: 'perplexity'"),
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["--preset", "huge"], "argument --preset: invalid choice: 'huge'"),
    ],
)
def test_bad_input_is_an_error_that_says_what_is_wrong(capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        parse(options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_no_gpu_is_said(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        parse(["--device", "cuda"])
    assert "--device: expected cpu where PyTorch sees no GPU, got cuda" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "--vocabulary" in capsys.readouterr().out
