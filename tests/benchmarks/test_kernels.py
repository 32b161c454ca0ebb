import json
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks import kernels
from benchmarks.kernels import cases, main, parse

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
