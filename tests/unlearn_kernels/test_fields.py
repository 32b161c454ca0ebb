"""Accuracy where it is hard, for both operations on both backends: never worse than twice plain PyTorch in the same
dtype, and exact where it can be. `python -m benchmarks.numerics` prints the errors, and those of other ways."""

import functools
import importlib.util
import math

import pytest
import torch

from unlearn_kernels import head, linear_token_statistics, tiles, token_statistics
from unlearn_kernels.reference import dense_linear_token_statistics, dense_token_statistics
from unlearn_kernels.statistics import FIELDS, NOT_DIFFERENTIABLE

# numpy says so of the label's column, which is overwritten, and of lanes beyond the last column, which are not stored
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs triton")
D, V = 32, 2003
REGIMES = ["normal", "flat", "peaked", "memorised", "all_negative"]
MEASURED = [name for name in FIELDS if name != "top_token"]


def from_identity(z, labels, *, reference_logits=None, **options):
    """`linear_token_statistics` of hidden states and a head whose logits are z, and the head's gradient that of z."""
    identity = torch.eye(len(z), dtype=z.dtype, device=z.device)
    if reference_logits is not None:
        options |= {"reference_hidden": identity, "reference_weight": reference_logits.t()}
    return linear_token_statistics(identity, z.t(), labels, **options)


@pytest.fixture(params=["torch", pytest.param("triton", marks=needs_triton)])
def backend(request):
    return request.param


@pytest.fixture(params=["hidden", "logits"])
def of_logits(request, backend):
    """Each public operation on each backend as a function of logits."""
    return functools.partial(from_identity if request.param == "hidden" else token_statistics, backend=backend)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def random_labels(n, v=V):
    return torch.randint(v, (n,), generator=torch.Generator().manual_seed(0)).to(DEVICE)


def regime(name, n):
    weight, labels, hidden = random(V, D) / D**0.5, random_labels(n), random(n, D, seed=1)
    if name == "flat":
        hidden = hidden * 1e-2
    elif name == "peaked":
        hidden = hidden * 8
    elif name == "memorised":
        hidden = weight[labels] * 30
    elif name == "all_negative":
        weight, hidden = weight - 3, hidden.abs() * 2  # logits around -150
    return hidden, weight, labels, hidden + 0.02 * hidden.norm(dim=1, keepdim=True) / D**0.5 * random(n, D, seed=2)


def results(function, leaves, labels, field, **options):
    """The value of a field and the gradients of its weighted sum."""
    leaves = [x.detach().requires_grad_() for x in leaves]
    value = getattr(function(*leaves, labels, statistics=(field,), **options), field)
    if field in NOT_DIFFERENTIABLE:
        return [value]
    upstream = torch.linspace(0.5, 1.5, len(value), dtype=value.dtype, device=DEVICE)
    return [value.detach(), *torch.autograd.grad((value * upstream).sum(), leaves)]


def doubled(options):
    return {name: x.double() for name, x in options.items()}


def error(x, truth):
    """Root of the mean squared error."""
    return (x.double() - truth).square().mean().sqrt().item()


def relative(x, truth):
    """Norm of the error over that of the truth."""
    return ((x.double() - truth).norm() / truth.norm()).item()


def assert_at_most_twice_plain_pytorchs(function, dense, leaves, labels, dtype, **references):
    """Compare every field's errors against float64."""
    leaves, references = [x.to(dtype) for x in leaves], {name: x.to(dtype) for name, x in references.items()}
    for field in MEASURED:
        truth = results(dense, [x.double() for x in leaves], labels, field, **doubled(references))
        ours, plain = (results(f, leaves, labels, field, **references) for f in (function, dense))
        for part, t, a, b in zip(("value", "first gradient", "second gradient"), truth, ours, plain, strict=False):
            floor = 1e-7 * t.square().mean().sqrt().item()
            assert error(a, t) <= 2 * error(b, t) + floor, f"{field} {part}: {error(a, t)} against {error(b, t)}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", REGIMES)
def test_error_is_at_most_twice_plain_pytorchs(name, dtype, backend):
    *leaves, labels, reference = regime(name, 64 if backend == "torch" else 12)
    ours = functools.partial(linear_token_statistics, backend=backend)
    arguments = (dense_linear_token_statistics, leaves, labels, dtype)
    assert_at_most_twice_plain_pytorchs(ours, *arguments, reference_hidden=reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", REGIMES)
def test_error_from_logits_is_at_most_twice_plain_pytorchs(name, dtype):  # on Triton: `test_triton_rows.py`
    hidden, weight, labels, reference = regime(name, 64)
    ours = functools.partial(token_statistics, backend="torch")
    arguments = (dense_token_statistics, [hidden @ weight.t()], labels, dtype)
    assert_at_most_twice_plain_pytorchs(ours, *arguments, reference_logits=reference @ weight.t())


@pytest.fixture
def bfloat16_operands(monkeypatch):
    """Products of the head as on CUDA, where their operands are bfloat16 and their results float32."""

    def product(a, b, out, accumulate=False, alpha=1.0):
        assert a.dtype == b.dtype == torch.bfloat16
        result = alpha * (a.float() @ b.float())
        out.copy_(out + result if accumulate else result)

    monkeypatch.setattr(head, "product", product)
    monkeypatch.setattr(head, "_operand_dtype", lambda *_: torch.bfloat16)


@pytest.mark.usefixtures("bfloat16_operands")
@pytest.mark.parametrize("workspace", [None, 2**20])  # one tile; slices of the vocabulary and blocks of tokens
@pytest.mark.parametrize("name", REGIMES)
def test_error_with_bfloat16_operands_is_at_most_twice_plain_pytorchs(name, workspace):
    *leaves, labels, reference = regime(name, 64)
    ours = functools.partial(linear_token_statistics, backend="torch", workspace_bytes=workspace)
    arguments = (dense_linear_token_statistics, leaves, labels, torch.bfloat16)
    assert_at_most_twice_plain_pytorchs(ours, *arguments, reference_hidden=reference)


@pytest.mark.usefixtures("bfloat16_operands")
@pytest.mark.parametrize("name", REGIMES)
def test_error_of_unit_gradients_is_at_most_twice_plain_pytorchs(name, monkeypatch):
    """A frozen head and more tokens than one block."""
    monkeypatch.setattr(tiles, "FAST_ROWS", 8)
    hidden, weight, labels, reference = regime(name, 64)
    weight, schedules = weight.bfloat16(), []

    def of_hidden(function, **options):
        return lambda hidden, labels, **rest: function(hidden, weight.to(hidden.dtype), labels, **rest, **options)

    ours = of_hidden(linear_token_statistics, workspace_bytes=2**18, explain=schedules.append)
    arguments = (of_hidden(dense_linear_token_statistics), [hidden], labels, torch.bfloat16)
    assert_at_most_twice_plain_pytorchs(ours, *arguments, reference_hidden=reference)
    assert {schedule.name for schedule in schedules} == {"unit gradients", "no gradient"}


# --- what rounding destroys elsewhere ---


@pytest.mark.parametrize("field", ["entropy", "uniform_kl"])
def test_bfloat16_gradient_near_the_uniform_distribution(field, of_logits):
    z, labels = (0.01 * random(4, V)).bfloat16(), random_labels(4)
    truth = results(dense_token_statistics, [z.double()], labels, field)[1]
    assert relative(results(of_logits, [z], labels, field)[1], truth) < 0.006  # the result's own rounding, or cutting


@pytest.mark.parametrize(("distance", "kl"), [(0.3, 0.04), (0.03, 4e-4)])
def test_a_small_kl_from_bfloat16_inputs_is_right_to_a_fraction_of_a_percent(distance, kl, backend):
    hidden, weight = (4 * random(16, D)).bfloat16(), (random(V, D, seed=1) / D**0.5).bfloat16()
    reference, labels = (hidden.float() + distance * random(16, D, seed=2)).bfloat16(), random_labels(16)
    exact = {"reference_hidden": reference.double()}
    leaves = [hidden.double(), weight.double()]
    truth, *gradients = results(dense_linear_token_statistics, leaves, labels, "reference_kl", **exact)
    assert kl / 2 < truth.mean() < kl * 2
    options = {"reference_hidden": reference, "backend": backend}
    value, *ours = results(linear_token_statistics, [hidden, weight], labels, "reference_kl", **options)
    assert relative(value, truth) < 1e-3
    assert all(relative(a, t) < 0.004 for a, t in zip(ours, gradients, strict=True))


def test_a_tiny_kl_from_float32_logits(of_logits):
    z, labels = random(8, V), random_labels(8)
    r = z + 1.4e-4 * random(8, V, seed=1)
    exact = {"reference_logits": r.double()}
    for field in ("reference_kl", "reverse_kl"):
        truth, gradient = results(dense_token_statistics, [z.double()], labels, field, **exact)
        assert 5e-9 < truth.mean() < 2e-8
        value, ours = results(of_logits, [z], labels, field, reference_logits=r)
        assert relative(value, truth) < 5e-3  # plain PyTorch: 10
        assert relative(ours, gradient) < 2e-3


@pytest.mark.parametrize("gap", [1e-6, 1e-3, 1.0, 95.0, 200.0])
def test_difference_of_distributions_keeps_its_digits(gap, of_logits):
    # p - q where two logits differ by `gap` between the models
    r = torch.tensor([[0.0, 1.0, -2.0, 0.5]], device=DEVICE)
    z, labels = r + torch.tensor([[gap, 0.0, -gap, 0.0]], device=DEVICE), random_labels(1, 4)
    truth = results(dense_token_statistics, [z.double()], labels, "reference_kl", reference_logits=r.double())[1]
    ours = results(of_logits, [z], labels, "reference_kl", reference_logits=r)[1]
    torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=1e-11 if gap < 1e-2 else 1e-7)


@pytest.mark.parametrize("field", ["reference_kl", "reverse_kl"])
def test_equal_distributions_give_exact_zeros(field, of_logits):
    z = 5 * random(4, V)
    value, gradient = results(of_logits, [z], random_labels(4), field, reference_logits=z.clone())
    assert value.abs().max() == gradient.abs().max() == 0


def test_divergences_are_never_negative(of_logits):
    z = torch.cat([0.01 * random(16, V), torch.linspace(-9, 9, 16, device=DEVICE)[:, None].expand(-1, V)])
    names = ("uniform_kl", "reference_kl", "reverse_kl", "entropy")
    s = of_logits(z, random_labels(32), statistics=names, reference_logits=z * (1 + 1e-6))
    assert all((getattr(s, name) >= 0).all() for name in names)


@pytest.mark.parametrize("margin", [2.0, 12.0, 20.0, 60.0, 150.0])
def test_memorised_token_is_exact_in_float32(margin, of_logits):
    # one label logit `margin` above 4 equal others: 1 - p = 1 / (1 + e^margin / 4)
    z, labels = torch.zeros(1, 5, device=DEVICE), torch.tensor([2], device=DEVICE)
    z[0, 2] = margin
    z.requires_grad_()
    s = of_logits(z, labels, statistics=("log_prob", "log_complement"))
    rest = 1 / (1 + math.exp(margin) / 4)
    assert s.log_complement.item() == pytest.approx(math.log(4) - margin - math.log1p(4 * math.exp(-margin)), rel=1e-6)
    assert s.log_prob.item() == pytest.approx(-math.log1p(4 * math.exp(-margin)), rel=1e-5, abs=1e-44)
    (g,) = torch.autograd.grad(s.log_prob.sum(), z, retain_graph=True)
    assert g[0, 2].item() == pytest.approx(rest, rel=1e-5, abs=1e-44)
    assert g[0, 0].item() == pytest.approx(-rest / 4, rel=1e-5, abs=1e-44)
    (g,) = torch.autograd.grad(s.log_complement.sum(), z)
    assert g[0].tolist() == pytest.approx([(1 - rest) / 4] * 2 + [rest - 1] + [(1 - rest) / 4] * 2, rel=1e-6)


@pytest.mark.parametrize("rest", [0.1, 0.01, 0.001])
def test_gradient_of_a_memorised_token_survives_bfloat16_operands(rest, of_logits):
    z, labels, weight = random(4, V), random_labels(4), random(V, D, seed=1)
    others = z.scatter(1, labels[:, None], -math.inf).logsumexp(1, keepdim=True)
    z.scatter_(1, labels[:, None], others + math.log((1 - rest) / rest))
    truth = results(dense_token_statistics, [z.double()], labels, "log_prob")[1] @ weight.double()
    ours = results(of_logits, [z], labels, "log_prob")[1].bfloat16().float() @ weight
    assert relative(ours, truth) < 0.003  # w_y - sum p_v w_v from a p in bfloat16: 0.02, 0.2 and 1


def test_small_probabilities_are_not_dropped(of_logits):
    z = 0.01 * random(2, 8209)  # every p is half of what gradient filtering skips
    mass = results(of_logits, [z], random_labels(2), "log_partition")[1].sum(1)
    torch.testing.assert_close(mass.cpu(), torch.tensor([0.5, 1.5]), rtol=1e-5, atol=0)


@pytest.mark.usefixtures("bfloat16_operands")
@pytest.mark.parametrize(("n", "v", "workspace", "of_weight"), [(4, 16411, 2**16, False), (1024, 520, 2**18, True)])
def test_gradients_are_summed_over_tiles_in_float32(n, v, workspace, of_weight):  # by `head.py`, whatever the backend
    hidden, weight, labels = random(n, D).bfloat16(), (random(v, D, seed=1) / D**0.5).bfloat16(), random_labels(n, v)
    leaves, part = [hidden.double(), weight.double()], 1 + of_weight
    truth = results(dense_linear_token_statistics, leaves, labels, "entropy")[part]
    schedules = []
    options = {"workspace_bytes": workspace, "explain": schedules.append}
    ours = results(linear_token_statistics, [hidden, weight], labels, "entropy", **options)[part]
    assert len(schedules[0].tiling.rows if of_weight else schedules[0].tiling.columns) >= 32
    assert relative(ours, truth) < 0.003  # operands and result are rounded; 0.006 where the sum is, tile after tile


# --- awkward logits ---


def test_unlikely_label(of_logits):
    z, labels = torch.tensor([[0.0, 90.0, 89.0]], device=DEVICE, requires_grad=True), torch.tensor([0], device=DEVICE)
    s = of_logits(z, labels, statistics=("log_prob", "log_complement"))
    truth = dense_token_statistics(z.detach().double(), labels, statistics=("log_prob",))
    assert s.log_prob.item() == pytest.approx(truth.log_prob.item(), rel=1e-6)
    assert s.log_complement.item() == pytest.approx(-math.exp(truth.log_prob.item()), rel=1e-4)
    (g,) = torch.autograd.grad(s.log_complement.sum(), z)
    assert g.isfinite().all()


def test_uniform_distribution(of_logits):
    z = torch.full((1, 1000), -7.0, device=DEVICE, requires_grad=True)
    names = ("entropy", "uniform_kl", "log_prob_variance", "log_prob", "top_token")
    s = of_logits(z, torch.tensor([3], device=DEVICE), statistics=names)
    assert s.entropy.item() == pytest.approx(math.log(1000), rel=1e-6)
    assert s.log_prob.item() == pytest.approx(-math.log(1000), rel=1e-6)
    assert s.uniform_kl.item() == pytest.approx(0, abs=1e-6)
    assert s.log_prob_variance.item() == pytest.approx(0, abs=1e-10)
    assert s.top_token.item() == 0
    (g,) = torch.autograd.grad((s.entropy + s.uniform_kl).sum(), z)
    assert g.abs().max() < 1e-8


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("shift", [0.0, -300.0])  # -300: a 0 that stands in for a missing logit would win
def test_every_field_from_few_tokens_negative_logits_and_columns_beyond_two_blocks(n, shift, of_logits):
    v = 4099
    z, r, labels = random(n, v) + shift, random(n, v, seed=1) + shift, random_labels(n, v)
    for field in FIELDS:
        truth = results(dense_token_statistics, [z.double()], labels, field, reference_logits=r.double())
        ours = results(of_logits, [z], labels, field, reference_logits=r, workspace_bytes=40_000)
        for a, t in zip(ours, truth, strict=True):
            torch.testing.assert_close(a.to(t.dtype), t, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in NOT_DIFFERENTIABLE])
def test_upstream_gradients_and_labels_of_any_stride(field, of_logits):
    z, r = random(4, 23), random(4, 23, seed=1)
    labels = torch.stack([random_labels(4, 23), torch.full((4,), 10**9, device=DEVICE)], 1)[:, 0]
    weights = torch.stack([torch.tensor([2.0, 3.0, 5.0, 7.0], device=DEVICE)] * 2, 1)[:, 0]
    for upstream in (weights, torch.tensor(2.0, device=DEVICE).expand(4)):  # autograd's of a sum is of stride 0
        gradients = []
        for function, dtype in ((of_logits, torch.float32), (dense_token_statistics, torch.float64)):
            leaf = z.to(dtype).requires_grad_()
            s = function(leaf, labels, statistics=(field,), reference_logits=r.to(dtype))
            gradients += torch.autograd.grad(getattr(s, field), leaf, upstream.to(dtype))
        torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-5, atol=1e-6)


def test_every_label_ignored(of_logits):
    z, labels = random(3, 23), torch.full((3,), -100, device=DEVICE)
    for field in FIELDS:
        for x in results(of_logits, [z], labels, field, reference_logits=z.clone()):
            assert x.abs().sum() == 0


@pytest.mark.parametrize(("rows", "apart"), [(3, 2**30), (2, 2**31 + 16)])  # a product, or a stride, beyond 31 bits
def test_rows_further_apart_than_31_bits(rows, apart, of_logits):
    storage = torch.empty((rows - 1) * apart + 64, dtype=torch.bfloat16, device=DEVICE)  # 4 GiB, untouched on a CPU
    z = storage.as_strided((rows, 40), (apart, 1))
    z.copy_(random(rows, 40))
    labels = random_labels(rows, 40)
    for far, near in zip(*(results(of_logits, [x], labels, "entropy") for x in (z, z.contiguous())), strict=True):
        torch.testing.assert_close(far, near, rtol=0, atol=0)


def test_more_than_31_bits_of_logits_of_which_few_tokens_count(backend):
    n, v = 2**16 + 2, 2**15 + 3
    hidden, weight, labels = random(n, 4), random(v, 4, seed=1), torch.full((n,), -100, device=DEVICE)
    counted = torch.tensor([0, 7, n - 1], device=DEVICE)
    labels[counted] = v - 1
    value, d_hidden, d_weight = results(linear_token_statistics, [hidden, weight], labels, "log_prob", backend=backend)
    leaves = [hidden[counted].double(), weight.double()]
    (log_prob,) = dense_linear_token_statistics(*leaves, labels[counted], statistics=("log_prob",))[:1]
    torch.testing.assert_close(value[counted].double(), log_prob, rtol=1e-5, atol=1e-5)
    assert value.count_nonzero() == 3
    assert d_hidden.any(1).nonzero().squeeze(1).tolist() == counted.tolist()
    assert d_weight[v - 1].abs().sum() > 0
