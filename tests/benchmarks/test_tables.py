import json
from dataclasses import replace

import pytest

from benchmarks.cases import Case
from benchmarks.floor import Floor
from benchmarks.measure import Measurement, Result
from benchmarks.tables import append, environment, header, open_records, page, read, rows

CASE = Case("log_prob", "hidden", "frozen", 0.6, 64, 16, 1000, "float32", "cpu")
FLOOR = Floor(0.02, 1e9, "unit gradients: 2.00 G (1.00 logits + 1 hidden + 0 weight)", 1.0, 1.0, 0.0)
OURS = Measurement("unlearn_kernels", None, 0.025, 0.024, 0.0261, 1500000, {"value": 1e-7, "d_input": 2e-7}, 64)
PLAIN = replace(OURS, implementation="pytorch", median_seconds=0.05)
ABSENT = Measurement("quack-kernels", "not installed")
RESULTS = [Result(CASE, FLOOR, measurement) for measurement in (OURS, PLAIN, ABSENT)]
MACHINE = {"device": "a machine", "torch": "2.13.0"}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rows_say_time_ratios_memory_and_errors_or_why_not():
    names = cells(header().splitlines()[0])
    ours, plain, absent = (dict(zip(names, cells(line), strict=True)) for line in rows(RESULTS).splitlines())
    assert ours["N x D x V"] == "64 x 16 x 1000"
    assert (ours["ms [p20 p80]"], ours["/ ours"], ours["/ floor"]) == ("25.00 [24.00 26.10]", "1.00", "1.25")
    assert (ours["extra MB"], ours["error: value"], ours["d_input"], ours["d_weight"]) == (
        "1.5",
        "1.0e-07",
        "2.0e-07",
        "",
    )
    assert ours["note"] == "2.00 G, unit gradients"
    assert (plain["/ ours"], plain["note"]) == ("2.00", "")
    assert (absent["ms [p20 p80]"], absent["note"]) == ("", "not installed")


def test_rows_from_logits_say_their_rate():
    case = replace(CASE, source="row sums", head="-", hidden=0)
    line = rows([Result(case, Floor(0.02, 5e9, moved_bytes=100_000_000), OURS)])
    assert "| 64 x 1000 " in line
    assert "4.0 GB/s, 80% of a copy" in line


def test_results_are_read_back_on_the_same_machine_only(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert open_records(folder, MACHINE) == []
    append(folder / "results.jsonl", RESULTS)
    assert [read(record) for record in open_records(folder, MACHINE)] == RESULTS
    assert json.loads((folder / "results.jsonl").read_text().splitlines()[0]) == MACHINE
    with pytest.raises(ValueError, match=r"--output: expected .*2\.14\.0.*got .*2\.13\.0"):
        open_records(folder, {**MACHINE, "torch": "2.14.0"})


def test_the_page_carries_command_machine_date_and_targets():
    text = page([header(), rows(RESULTS)], MACHINE, "python -m benchmarks.kernels", "2030-01-02", "    met  a target")
    assert text.startswith("`python -m benchmarks.kernels`, 2030-01-02\n\na machine; torch 2.13.0\n")
    assert rows(RESULTS) in text
    assert text.endswith("    met  a target\n")


def test_the_environment_has_every_version():
    found = environment("cpu")
    assert {"device", "python", "torch", "triton", "liger-kernel", "cut-cross-entropy", "quack-kernels"} <= found.keys()
    assert "cores" in found["device"]
