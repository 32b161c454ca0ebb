import subprocess
import sys

import pytest
import torch

from unlearn_kernels.head import Factor, HeadLogits, Transform, logit_dtype, product


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_product_writes_or_adds(accumulate, alpha):
    a, b = torch.randn(3, 4), torch.randn(4, 2)
    out = torch.full((3, 2), 7.0 if accumulate else float("nan"))
    product(a, b, out, accumulate, alpha)
    torch.testing.assert_close(out, alpha * a @ b + (7 if accumulate else 0))


def test_logits_are_float32_unless_an_input_is_float64():
    half, single, double = (torch.zeros(1, dtype=d) for d in (torch.float16, torch.float32, torch.float64))
    assert logit_dtype(half, single, None) == torch.float32
    assert logit_dtype(half, double) == torch.float64


def test_cap_gives_the_derivative_of_the_soft_cap():
    transform = Transform(softcap=3.0, logit_scale=2.0, temperature=0.5)
    raw = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    z = 3 * torch.tanh(2 * raw / 3) / 0.5
    factor = Factor(torch.zeros(4, 1), torch.zeros(6, 1), None, torch.float64)
    head = HeadLogits(factor, None, None, transform)
    slope = 1 - (z.detach() / head.cap) ** 2
    (expected,) = torch.autograd.grad(z.sum(), raw)
    torch.testing.assert_close(slope * transform.linear, expected)


def test_blocks_gather_the_counted_rows():
    hidden = torch.arange(8.0).reshape(4, 2).bfloat16()
    head = Factor(hidden, torch.zeros(3, 2), torch.tensor([3, 0]), torch.float32)
    assert head.block(slice(0, 2)).tolist() == [[6, 7], [0, 1]]
    assert head.block(slice(1, 2)).tolist() == [[0, 1]]


def test_import_needs_torch_alone():
    code = (
        "import sys, unlearn_kernels; "
        "print([m for m in ('transformers', 'lightning', 'triton', 'scipy', 'datasets') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "kernels"}
    )
    assert out.stdout.strip() == "[]"
