import json

import pytest
import torch

from benchmarks.kernels import PeakMemory, main

SMALL = ["--tokens", "48", "--hidden", "8", "--vocabulary", "4001", "--repeats", "2"]


def test_prints_a_table_and_writes_json_lines(capsys, tmp_path):
    output = tmp_path / "kernels.jsonl"
    arguments = [
        "--operations",
        "uniform_kl",
        "reference_kl",
        "--ignored",
        "0",
        "0.5",
        "--logits",
        "--output",
        str(output),
    ]
    main([*SMALL, *arguments])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("N 48  D 8  V 4001  float32  cpu")
    assert len(lines) == 2 + 2 * 2 * 3  # two shares of ignored tokens, two operations, two heads and logits
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(records) == 2 * 12
    assert all(0 < r["p20_seconds"] <= r["median_seconds"] <= r["p80_seconds"] for r in records)
    assert {r["implementation"] for r in records} == {"unlearn_kernels", "pytorch"}


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "--vocabulary" in capsys.readouterr().out


def test_peak_memory_counts_live_tensors_once():
    x = torch.zeros(1000)  # made before: not counted
    with PeakMemory() as memory:
        a = x + 1  # 4000 bytes
        b = a.view(10, 100)  # the same memory
        del a, b
        c = x.double()  # 8000 bytes, the first is gone
        c.add_(1)
    assert memory.peak == 8000
