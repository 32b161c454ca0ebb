"""The kernels compile ahead of time, without a GPU, for every processor that we ship to, and no register spills."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def table(*options):
    """Rows of `python -m benchmarks.compile`, which ends with an error where a kernel spills."""
    if not importlib.util.find_spec("triton"):
        pytest.skip("needs triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "kernels")])
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.compile", *options], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return re.findall(r"^\| ((?:sums|gradient): .*) \|$", result.stdout, re.MULTILINE)


def test_the_lightest_and_the_heaviest_kernels():
    rows = table("--fields", "log_prob", "all")
    assert (
        len(rows) == 20
    )  # two kernels, two dtypes and a gradient from one to the other; slices of many columns and of one
    for row in rows:
        resources = re.findall(r"(\d+) / (\d+)", row)
        assert len(resources) == 4  # sm_80, sm_90, sm_100, gfx942
        assert all(4 <= int(registers) <= 255 and int(shared) <= 1024 for registers, shared in resources)


@pytest.mark.slow
def test_every_configuration_that_ships():
    assert len(table("--complete")) > 200


def test_the_guide_carries_the_table():
    guide = (REPOSITORY / "kernels/README.md").read_text()
    for name in ("sums: log_prob", "sums: all", "gradient: log_prob", "gradient: all"):
        for dtype in ("float32", "bfloat16"):
            row = rf"\| {name} \| {dtype}, 2048 x 8 \| \d+ / \d+ \| \d+ / \d+ \| \d+ / \d+ \| \d+ / 3?\d+ \|"
            assert re.search(row, guide), f"{name}, {dtype}: run python -m benchmarks.compile"
