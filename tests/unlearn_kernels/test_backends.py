"""Which backend serves a call, and what is said where Triton cannot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unlearn_kernels import backends, linear_token_statistics, token_statistics, torch_rows

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def in_new_process(code, **environment):
    """What a new interpreter prints that has not imported triton yet."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = {**inherited, "PYTHONPATH": str(KERNELS), **environment}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_auto_on_a_cpu_is_pytorch_even_with_the_interpreter():
    assert backends.row_kernels("auto", torch.float32, CPU) is torch_rows
    assert backends.row_kernels("torch", torch.float32, CPU) is torch_rows


def test_float64_is_pytorchs_on_any_device():
    assert backends.row_kernels("auto", torch.float64, GPU) is torch_rows
    with pytest.raises(ValueError, match=r"expected 'auto' or 'torch' for inputs of torch\.float64, got 'triton'"):
        linear_token_statistics(torch.zeros(1, 2).double(), torch.zeros(3, 2), torch.tensor([0]), backend="triton")


def test_without_triton_auto_is_pytorch_and_triton_an_error(monkeypatch):
    monkeypatch.setattr(backends, "HAS_TRITON", False)
    assert backends.row_kernels("auto", torch.float32, GPU) is torch_rows
    with pytest.raises(ValueError, match="where triton is not installed"):
        token_statistics(torch.zeros(1, 2), torch.tensor([0]), backend="triton")


def test_auto_on_a_gpu_is_triton_but_never_its_interpreter(monkeypatch):
    rows = pytest.importorskip("unlearn_kernels.rows")
    monkeypatch.setattr(rows, "INTERPRETED", False)
    assert backends.row_kernels("auto", torch.float32, GPU).__name__ == "unlearn_kernels.triton_rows"
    monkeypatch.setattr(rows, "INTERPRETED", True)
    assert backends.row_kernels("auto", torch.float32, GPU) is torch_rows
    assert backends.row_kernels("triton", torch.float32, CPU).__name__ == "unlearn_kernels.triton_rows"


def test_triton_on_a_cpu_without_the_interpreter_is_an_error(monkeypatch):
    rows = pytest.importorskip("unlearn_kernels.rows")
    monkeypatch.setattr(rows, "INTERPRETED", False)
    with pytest.raises(ValueError, match=r"for tensors on cpu \(Triton needs a GPU, or TRITON_INTERPRET=1"):
        token_statistics(torch.zeros(1, 2), torch.tensor([0]), backend="triton")


def test_triton_is_imported_only_when_it_is_needed():
    code = (
        "import sys, torch, unlearn_kernels as u\n"
        "u.token_statistics(torch.zeros(1, 2), torch.tensor([0]))\n"
        "print('triton' in sys.modules)\n"
    )
    assert in_new_process(code) == "False"


def test_the_interpreter_is_chosen_by_the_environment():
    pytest.importorskip("triton")
    code = "from unlearn_kernels import rows; print(rows.INTERPRETED)"
    assert in_new_process(code) == "False"
    assert in_new_process(code, TRITON_INTERPRET="1") == "True"
