"""What the guide says of numerical errors is what the benchmark measures, and ours are the smallest."""

import math
import re
from pathlib import Path

import pytest
import torch

from benchmarks import numerics

GUIDE = Path(__file__).resolve().parents[2] / "kernels/README.md"


@pytest.fixture(scope="module")
def lines():
    with torch.device("cpu"):
        return list(numerics.lines())


def test_no_other_way_is_as_good(lines):
    for line in lines:
        assert line.ours < line.other / 1.5, line


def test_never_worse_than_twice_plain_pytorch(lines):
    for line in lines:
        assert line.ours <= 2 * line.pytorch, line


def test_other_ways_fail_where_they_are_said_to(lines):
    errors = {(line.other_way, line.inputs): line.other for line in lines}
    assert errors["H rounded to bfloat16", "bfloat16 logits of deviation 0.01"] > 1
    assert errors["bfloat16 logits", "bfloat16 hidden states, KL 4e-04"] > 1
    assert errors["bfloat16 r + (x - x_ref) Wᵀ", "bfloat16 hidden states, KL 4e-04"] < 0.01
    assert errors["1 - exp(log_prob)", "float32 logits, 1 - p_y = 1e-09"] == 1
    assert errors["w_y - Σ p_v w_v", "bfloat16 operands, 1 - p_y = 1e-03"] > 0.9


def test_an_error_is_relative():
    assert numerics.error(torch.tensor([3.0, 8.0]), torch.tensor([3.0, 4.0]).double()) == pytest.approx(0.8)  # 4 / 5


def test_random_numbers_are_the_same_on_every_call():
    assert torch.equal(numerics.random(5, seed=1), numerics.random(5, seed=1))
    assert not torch.equal(numerics.random(5, seed=1), numerics.random(5, seed=2))


def test_memorised_logits_leave_the_rest_to_the_others():
    log_p = numerics.memorised(1e-6).log_softmax(1).gather(1, numerics.random_labels().unsqueeze(1))
    torch.testing.assert_close(-log_p.expm1(), torch.full_like(log_p, 1e-6), rtol=1e-6, atol=0)


def test_prints_a_table(capsys, monkeypatch, lines):
    monkeypatch.setattr(numerics, "lines", lambda: iter(lines[:2]))
    numerics.main(["--device", "cpu"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"N {numerics.N}  D {numerics.D}  V {numerics.V}  cpu  torch")
    assert [x.count("|") for x in printed[2:]] == [7] * 4


def test_the_guide_carries_the_table(lines):
    """The same lines, with errors of the same size: libraries and processors round differently."""
    guide = GUIDE.read_text()
    assert numerics.HEADER in guide
    rows = re.findall(r"^\| (.*) \| ([\d.e+-]+) \| ([\d.e+-]+) \| ([\d.e+-]+) \|$", guide, re.MULTILINE)
    assert [name for name, *_ in rows] == [" | ".join((x.quantity, x.inputs, x.other_way)) for x in lines]
    for (name, *printed), line in zip(rows, lines, strict=True):
        for text, measured in zip(printed, (line.other, line.pytorch, line.ours), strict=True):
            assert abs(math.log10(float(text) / measured)) < 0.5, f"{name}: {text}, measured {measured:.1e}"
