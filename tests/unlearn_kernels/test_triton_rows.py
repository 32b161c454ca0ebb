"""Both operations on the Triton backend (its interpreter where there is no GPU): values and gradients of every field
and option equal the dense definitions, and are never worse than twice plain PyTorch."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearn_kernels import linear_token_statistics, token_statistics
from unlearn_kernels.reference import dense_linear_token_statistics, dense_token_statistics
from unlearn_kernels.statistics import FIELDS, NOT_DIFFERENTIABLE

pytest.importorskip("triton")
# numpy says so of the label's column, which is overwritten, and of lanes beyond the last column, which are not stored
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DIFFERENTIABLE = tuple(name for name in FIELDS if name not in NOT_DIFFERENTIABLE)
N, D, V = 6, 5, 23
OPTIONS = {"plain": {}, "all": {"softcap": 2.0, "logit_scale": 1.7, "temperature": 1.3}}
WORKSPACES = [None, 8 * N * 8, 4 * N * 4 * 8]  # all kept; column slices; some kept


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def random(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def random_labels(n, v, seed=0):
    return torch.randint(v, (n,), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def with_gradients(function, leaves, upstream, **options):
    """The fields that `upstream` names and the gradients of their weighted sum, all doubled before backward."""
    leaves = [x.detach().clone().requires_grad_() for x in leaves]
    record = function(*leaves, statistics=tuple(upstream), **options)
    loss = sum((getattr(record, name) * g).sum() for name, g in upstream.items() if name in DIFFERENTIABLE)
    gradients = torch.autograd.grad(2 * loss, leaves) if isinstance(loss, torch.Tensor) else ()
    return [getattr(record, name).detach() for name in upstream], list(gradients)


def mixed(n=N, names=FIELDS, dtype=torch.float32):
    return {name: random(n, seed=i + 20, dtype=dtype) for i, name in enumerate(names)}


def linear_case(n=N, v=V, dtype=torch.float32):
    labels = random_labels(n, v)
    labels[1:n:3] = -100
    reference = {"reference_hidden": random(n, D + 1, seed=4), "reference_weight": random(v, D + 1, seed=5)}
    leaves = [random(n, D, seed=1, dtype=dtype), random(v, D, seed=2, dtype=dtype), random(v, seed=3, dtype=dtype)]
    return leaves, {"labels": labels, **{k: x.to(dtype) for k, x in reference.items()}}


def with_bias(function):
    return lambda hidden, weight, bias, *, labels, **options: function(hidden, weight, labels, bias=bias, **options)


def assert_same(found, expected, rtol=2e-5, atol=2e-5):
    for parts in zip(found, expected, strict=True):
        for a, b in zip(*parts, strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("workspace", WORKSPACES)
@pytest.mark.parametrize("options", OPTIONS)
def test_all_fields_from_hidden_states(options, workspace):
    leaves, rest = linear_case()
    found = with_gradients(
        with_bias(linear_token_statistics),
        leaves,
        mixed(),
        **rest,
        **OPTIONS[options],
        workspace_bytes=workspace,
        backend="triton",
    )
    expected = with_gradients(
        with_bias(linear_token_statistics), leaves, mixed(), **rest, **OPTIONS[options], backend="torch"
    )
    dense = with_gradients(with_bias(dense_linear_token_statistics), leaves, mixed(), **rest, **OPTIONS[options])
    assert_same(found, expected)
    assert_same(found, dense)


def test_slices_of_many_blocks_from_hidden_states():
    v = 10007
    hidden, weight = random(4, 8, seed=1), random(v, 8, seed=2)
    options = {
        "labels": random_labels(4, v),
        "reference_hidden": random(4, 8, seed=3),
        "workspace_bytes": 2 * 4 * 4 * 5056,
    }
    upstream = mixed(4)
    found = with_gradients(linear_token_statistics, (hidden, weight), upstream, **options, backend="triton")
    expected = with_gradients(linear_token_statistics, (hidden, weight), upstream, **options, backend="torch")
    assert_same(found, expected, 1e-4, 1e-4)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_field_alone_from_logits(field, dtype):
    z, r = random(N, 37, dtype=dtype) * 2, random(N, 37, seed=1, dtype=dtype)
    labels = random_labels(N, 37)
    labels[[0, 3]] = -100
    upstream = mixed(N, (field,))
    options = {"labels": labels, "reference_logits": r}
    found = with_gradients(token_statistics, [z], upstream, **options, backend="triton")
    wide = {"labels": labels, "reference_logits": r.double()}
    expected = with_gradients(dense_token_statistics, [z.double()], mixed(N, (field,), torch.float64), **wide)
    torch.testing.assert_close(found[0][0], expected[0][0].to(found[0][0].dtype), rtol=1e-5, atol=1e-6)
    for a, b in zip(found[1], expected[1], strict=True):
        assert a.dtype == dtype
        rounding = max(1e-5, torch.finfo(dtype).eps)
        torch.testing.assert_close(a.double(), b.double(), rtol=rounding, atol=rounding / 4)


@pytest.mark.parametrize("first", DIFFERENTIABLE)
def test_any_two_fields_of_which_the_first_has_a_gradient(first):
    z, r, labels = random(3, 9), random(3, 9, seed=1), random_labels(3, 9)
    for second in FIELDS:

        def function(z, *, statistics, of, second=second, **options):
            return of(z, labels, statistics={*statistics, second}, reference_logits=r, **options)

        upstream = mixed(3, (first,))
        found = with_gradients(function, [z], upstream, of=token_statistics, backend="triton")
        assert_same(found, with_gradients(function, [z], upstream, of=dense_token_statistics), 1e-5, 1e-6)


# --- accuracy: error against error ---

REGIMES = ["normal", "flat", "peaked", "memorised", "all_negative", "close", "far"]


def regime(name, n=16, v=1501):
    z, labels = random(n, v), random_labels(n, v)
    if name == "flat":
        z = z * 1e-2
    elif name == "peaked":
        z = z * 8
    elif name == "memorised":
        z[torch.arange(n), labels] += torch.linspace(12, 40, n, device=DEVICE)
    elif name == "all_negative":
        z = z.abs() * -20 - 100
    distance = {"close": 1e-3, "far": 6.0}.get(name, 0.2)
    return z, z + distance * random(n, v, seed=1), labels


# the interpreter cuts a float32 where it makes a bfloat16 of it, a GPU rounds
ROUNDING = 1e-7 if torch.cuda.is_available() else torch.finfo(torch.bfloat16).eps / 2


def error(x, truth):
    return (x.double() - truth).square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in REGIMES] + [("flat", torch.bfloat16), ("close", torch.bfloat16)],
)
def test_error_is_at_most_twice_plain_pytorchs(name, dtype):
    z, r, labels = regime(name)
    z, r = z.to(dtype), r.to(dtype)
    upstream = torch.linspace(0.5, 1.5, len(z), device=DEVICE)

    def results(function, field, dtype, **options):
        options |= {"labels": labels, "reference_logits": r.to(dtype)}
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        values, gradients = with_gradients(function, [z.to(dtype)], {field: upstream.to(kind)}, **options)
        return [x.double() for x in (*values, *gradients)]

    for field in FIELDS[:-1]:
        truth = results(dense_token_statistics, field, torch.float64)
        ours = results(token_statistics, field, dtype, backend="triton")
        plain = results(dense_token_statistics, field, dtype)
        for part, t, a, b in zip(("value", "d_logits"), truth, ours, plain, strict=False):
            cut = ROUNDING if part == "d_logits" and dtype == torch.bfloat16 else 1e-7
            floor = cut * t.square().mean().sqrt().item()
            assert error(a, t) <= 2 * error(b, t) + floor, f"{field} {part}: {error(a, t)} against {error(b, t)}"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 5),
    v=st.integers(2, 60),
    fields=st.sets(st.sampled_from(FIELDS), min_size=1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    stride=st.integers(1, 3),
    ignored=st.integers(0, 5),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_any_shape_dtype_stride_and_fields(n, v, fields, dtype, stride, ignored, scale, seed):
    z, r = ((random(n, v * stride, seed=seed + i) * scale).to(dtype)[:, ::stride] for i in range(2))
    labels = random_labels(n, v, seed)
    labels[:ignored] = -100
    upstream = {name: random(n, seed=i) for i, name in enumerate(fields)}
    found = with_gradients(token_statistics, [z], upstream, labels=labels, reference_logits=r, backend="triton")
    expected = with_gradients(token_statistics, [z], upstream, labels=labels, reference_logits=r, backend="torch")
    eps = torch.finfo(dtype).eps if found[1] else 0
    assert_same([found[0]], [expected[0]], 2e-5, 2e-5 * max(1, scale))
    assert_same([found[1]], [expected[1]], 2 * eps + 1e-4, eps + 3e-5)


# --- awkward cases ---


@pytest.mark.parametrize(("n", "v"), [(0, 23), (1, 23), (4, 1), (4, 2), (1, 1)])
def test_no_token_one_token_and_tiny_vocabularies(n, v):
    names = [name for name in FIELDS if v > 1 or name not in ("log_complement", "top_other_log_prob")]
    z, labels = random(n, v), random_labels(n, v)
    options = {"labels": labels, "reference_logits": random(n, v, seed=1)}
    found = with_gradients(token_statistics, [z], mixed(n, names), **options, backend="triton")
    assert_same(found, with_gradients(dense_token_statistics, [z], mixed(n, names), **options), 1e-5, 1e-5)
    linear = {"labels": labels, "reference_hidden": random(n, D, seed=2)}
    leaves = (random(n, D), random(v, D, seed=1))
    found = with_gradients(linear_token_statistics, leaves, mixed(n, names), **linear, backend="triton")
    assert_same(found, with_gradients(dense_linear_token_statistics, leaves, mixed(n, names), **linear), 1e-4, 1e-5)


def test_every_token_ignored():
    z = random(3, 5).requires_grad_()
    labels = torch.full((3,), -100, device=DEVICE)
    record = token_statistics(z, labels, statistics=FIELDS, reference_logits=z.detach(), backend="triton")
    assert all(x.tolist() == [0, 0, 0] for x in record)
    assert torch.autograd.grad(record.entropy.sum(), z)[0].tolist() == [[0] * 5] * 3


def test_ignored_tokens_are_not_read():
    z = random(3, 5)
    z[1] = float("nan")
    labels = torch.tensor([1, -100, 2], device=DEVICE)
    values, (gradient,) = with_gradients(token_statistics, [z], mixed(3, ("entropy",)), labels=labels, backend="triton")
    assert values[0].isfinite().all()
    assert gradient.isfinite().all()
    assert gradient[1].tolist() == [0] * 5


@pytest.mark.parametrize("make", [lambda z: z.t().contiguous().t(), lambda z: z[:1].expand(4, -1), lambda z: z[:, ::2]])
def test_strided_logits(make):
    z, labels = make(random(4, 8)).requires_grad_(), torch.arange(4, device=DEVICE)
    options = {"statistics": ("log_prob", "reverse_kl"), "reference_logits": make(random(4, 8, seed=1))}
    (ours,) = torch.autograd.grad(sum(x.sum() for x in token_statistics(z, labels, **options, backend="triton")[:1]), z)
    (dense,) = torch.autograd.grad(sum(x.sum() for x in dense_token_statistics(z, labels, **options)[:1]), z)
    torch.testing.assert_close(ours, dense)


@pytest.mark.parametrize("needs", [(0,), (1,), (2,), (0, 2)])
def test_any_part_may_be_frozen(needs):
    leaves, rest = linear_case()
    results = []
    for options in ({"backend": "triton"}, {"backend": "torch"}):
        parts = [x.clone().requires_grad_(i in needs) for i, x in enumerate(leaves)]
        record = with_bias(linear_token_statistics)(*parts, statistics=("log_prob", "reference_kl"), **rest, **options)
        results.append(
            torch.autograd.grad(record.log_prob.sum() + record.reference_kl.sum(), [parts[i] for i in needs])
        )
    assert_same([results[0]], [results[1]])


def test_tied_weights():
    embedding, tokens, labels = random(V, D), random_labels(N, V, 1), random_labels(N, V)

    def gradient(function, **options):
        weight = embedding.clone().requires_grad_()
        hidden = weight[tokens] * 2
        options |= {"statistics": ("log_prob", "reference_kl"), "reference_hidden": hidden.detach() * 0.5}
        record = function(hidden, weight, labels, **options)
        return torch.autograd.grad(record.log_prob.sum() + record.reference_kl.sum(), weight)[0]

    ours = gradient(linear_token_statistics, backend="triton")
    torch.testing.assert_close(ours, gradient(dense_linear_token_statistics), rtol=2e-5, atol=2e-5)


def test_strided_hidden_states_head_and_bias():
    leaves, rest = linear_case()
    rest |= {name: x.t().contiguous().t() for name, x in rest.items() if x.dim() == 2}
    strided = [
        leaves[0].t().contiguous().t(),
        torch.stack([leaves[1]] * 2, 2)[..., 0],
        torch.stack([leaves[2]] * 2, 1)[:, 0],
    ]
    assert not any(x.is_contiguous() for x in strided)

    def results(leaves, function, **options):
        parts = [x.detach().requires_grad_() for x in leaves]
        record = with_bias(function)(*parts, statistics=("log_prob", "reverse_kl"), **rest, **options)
        return torch.autograd.grad(record.log_prob.sum() + record.reverse_kl.sum(), parts)

    ours = results(strided, linear_token_statistics, backend="triton")
    assert_same([ours], [results(leaves, dense_linear_token_statistics)])


def test_same_model_as_reference_gives_exact_zeros():
    leaves, rest = linear_case(12, 1301)
    rest = {"labels": rest["labels"], "reference_hidden": leaves[0].clone()}
    upstream = mixed(12, ("reference_kl", "reverse_kl"))
    values, gradients = with_gradients(with_bias(linear_token_statistics), leaves, upstream, **rest, backend="triton")
    assert all(x.abs().max() == 0 for x in (*values, *gradients))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_recorded(mode):
    leaves, rest = linear_case()
    leaves[0].requires_grad_()
    with mode(), torch.autocast(DEVICE, dtype=torch.bfloat16):
        record = with_bias(linear_token_statistics)(*leaves, statistics=FIELDS, **rest, backend="triton")
    assert not any(x.requires_grad for x in record)
    assert_same([record], [with_gradients(with_bias(linear_token_statistics), leaves, mixed(), **rest)[0]])


@pytest.mark.parametrize("workspace", [None, 8 * N * 8])
def test_backward_twice_and_activation_checkpointing(workspace):
    (hidden, weight, _), rest = linear_case()
    hidden.requires_grad_()

    def loss(h):
        s = linear_token_statistics(h * 1.5, weight, rest["labels"], workspace_bytes=workspace, backend="triton")
        return (s.log_prob + s.entropy.square()).sum()

    value = loss(hidden)
    first = torch.autograd.grad(value, hidden, retain_graph=True)
    again = torch.autograd.grad(value, hidden)
    recomputed = torch.autograd.grad(torch.utils.checkpoint.checkpoint(loss, hidden, use_reentrant=False), hidden)
    assert_same([first, first], [again, recomputed], 0, 0)


def test_bfloat16_inputs_and_mixed_dtypes():
    leaves, rest = linear_case(dtype=torch.bfloat16)
    found = with_gradients(with_bias(linear_token_statistics), leaves, mixed(), **rest, backend="triton")
    expected = with_gradients(with_bias(linear_token_statistics), leaves, mixed(), **rest, backend="torch")
    assert_same(found, expected, 1e-2, 1e-2)
    leaves[0] = leaves[0].float()
    found = with_gradients(with_bias(linear_token_statistics), leaves, mixed(), **rest, backend="triton")
    assert [x.dtype for x in found[1]] == [torch.float32, torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize("given", ["logits", "hidden"])
def test_a_training_step_compiles_into_one_graph(given):
    leaves, rest = linear_case()
    labels = rest["labels"].clamp_min(0)

    def step(hidden, weight):
        options = {"statistics": ("log_prob", "entropy"), "ignore_index": None, "backend": "triton"}
        if given == "logits":
            s = token_statistics(hidden @ weight.t(), labels, **options)
        else:
            s = linear_token_statistics(hidden, weight, labels, **options)
        return (s.log_prob + s.entropy).sum()

    eager = [x.clone().requires_grad_() for x in leaves[:2]]
    compiled = [x.clone().requires_grad_() for x in leaves[:2]]
    step(*eager).backward()
    torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled).backward()
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("kind", ["unit gradients", "shared reference", "adapter", "no gradient"])
def test_every_schedule_compiles_into_one_graph(monkeypatch, kind):
    monkeypatch.setattr("unlearn_kernels.tiles.FAST_ROWS", 2)
    leaves, rest = linear_case()
    labels, chosen = rest["labels"].clamp_min(0), []
    hidden, weight = leaves[:2]
    u, b = torch.randn(len(hidden), 2, device=hidden.device), torch.randn(len(weight), 2, device=hidden.device)
    options = {"ignore_index": None, "backend": "triton", "statistics": ("log_prob",), "explain": chosen.append}
    if kind == "unit gradients":
        options["workspace_bytes"] = 3 * len(hidden) * len(weight)
    if kind == "shared reference":
        options |= {"statistics": ("reference_kl", "log_prob"), "reference_hidden": hidden.detach() * 0.5}

    def step(hidden, weight, u, b):
        adapter = {"adapter_hidden": u, "adapter_weight": b} if kind == "adapter" else {}
        head = weight if kind == "shared reference" else weight.detach()
        s = linear_token_statistics(hidden, head, labels, **adapter, **options)
        return sum(field.sum() for field in s if field is not None)

    needs = kind != "no gradient"
    eager, compiled = ([x.detach().clone().requires_grad_(needs) for x in (hidden, weight, u, b)] for _ in range(2))
    expected = step(*eager)
    assert chosen[0].name == (kind if kind in ("unit gradients", "no gradient") else "recompute")
    options.pop("explain")
    found = torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled)
    torch.testing.assert_close(found, expected)
    if needs:
        expected.backward()
        found.backward()
        for a, b in zip(eager, compiled, strict=True):
            torch.testing.assert_close(a.grad, b.grad)
