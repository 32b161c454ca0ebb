import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unlearn_kernels import token_statistics
from unlearn_kernels.reference import dense_token_statistics
from unlearn_kernels.statistics import FIELDS, NOT_DIFFERENTIABLE

DIFFERENTIABLE = tuple(name for name in FIELDS if name not in NOT_DIFFERENTIABLE)


def problem(n=5, v=13, dtype=torch.float64):
    torch.manual_seed(0)
    logits, reference = (torch.randn(n, v, dtype=dtype) * 3 for _ in range(2))
    labels = torch.randint(v, (n,))
    labels[n // 2 :: 3] = -100
    return logits, reference, labels


@pytest.mark.parametrize("field", DIFFERENTIABLE)
@pytest.mark.parametrize("workspace", [None, 200])
def test_gradcheck(field, workspace):
    logits, reference, labels = problem()

    def value(z):
        options = {"reference_logits": reference, "workspace_bytes": workspace}
        return getattr(token_statistics(z, labels, statistics=(field,), **options), field)

    assert torch.autograd.gradcheck(value, logits.requires_grad_())


@pytest.mark.parametrize("workspace", [None, 1, 700])
@pytest.mark.parametrize("ignored", [True, False])
def test_all_fields_with_mixed_upstream_gradients(workspace, ignored):
    logits, reference, labels = problem(7, 31)
    labels = labels if ignored else labels.clamp_min(0)
    upstream = {name: torch.randn(7, dtype=torch.float64) for name in DIFFERENTIABLE}

    def results(function, **options):
        z = logits.clone().requires_grad_()
        record = function(z, labels, statistics=FIELDS, reference_logits=reference, **options)
        loss = sum((getattr(record, name) * g).sum() for name, g in upstream.items())
        return record, torch.autograd.grad(loss, z)[0]

    record, gradient = results(token_statistics, workspace_bytes=workspace)
    expected, expected_gradient = results(dense_token_statistics)
    for name in FIELDS:
        torch.testing.assert_close(getattr(record, name), getattr(expected, name), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [lambda z: z.t().contiguous().t(), lambda z: z[:1].expand(4, -1), lambda z: z[:, ::2]])
def test_strided_logits(make):
    z = make(torch.randn(4, 8)).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3])
    (ours,) = torch.autograd.grad(token_statistics(z, labels).entropy.sum(), z)
    (expected,) = torch.autograd.grad(dense_token_statistics(z, labels).entropy.sum(), z)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("n", [0, 3])
def test_no_token_at_all(n):
    z = torch.randn(n, 5, requires_grad=True)
    record = token_statistics(z, torch.full((n,), -100))
    (gradient,) = torch.autograd.grad(record.log_prob.sum() + record.entropy.sum(), z)
    assert record.log_prob.tolist() == [0] * n
    assert gradient.tolist() == [[0] * 5] * n


def test_bfloat16_logits_are_read_in_slices_and_get_a_bfloat16_gradient():
    logits, _, labels = problem(64, 5003, torch.bfloat16)
    largest = 0

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
                largest = max(largest, result.numel())
            return result

    z = logits.requires_grad_()
    with Recorder():
        record = token_statistics(z, labels, workspace_bytes=200_000)
        (gradient,) = torch.autograd.grad(record.entropy.sum(), z)
    assert largest <= 50_000
    assert record.entropy.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    wide = logits.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(dense_token_statistics(wide, labels).entropy.sum(), wide)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-2, atol=1e-5)


def test_no_grad():
    logits, reference, labels = problem()
    with torch.no_grad():
        record = token_statistics(
            logits.requires_grad_(), labels, statistics=("reverse_kl",), reference_logits=reference
        )
    assert not record.reverse_kl.requires_grad
