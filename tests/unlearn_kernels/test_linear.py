"""The operation against dense definitions in float64: every field, option, schedule and awkward case."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from unlearn_kernels import linear_token_statistics
from unlearn_kernels.reference import dense_linear_token_statistics
from unlearn_kernels.statistics import FIELDS, NOT_DIFFERENTIABLE

DIFFERENTIABLE = tuple(name for name in FIELDS if name not in NOT_DIFFERENTIABLE)
N, D, V = 6, 5, 23  # V prime, so no slice divides it
OPTIONS = {
    "plain": {},
    "softcap": {"softcap": 1.5},
    "scaled": {"logit_scale": 0.3, "temperature": 0.7},
    "all": {"softcap": 2.0, "logit_scale": 1.7, "temperature": 1.3},
}
# one tile; column slices; row blocks and column slices; the smallest tiles there are; some tiles kept
WORKSPACES = [None, 4 * N * 3 * 8 * 5, 600, 1, 4 * N * 8 * (5 * 7 + 20)]


def problem(dtype=torch.float64, n=N, d=D, v=V, seed=0, ignored=True):
    torch.manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, dtype=dtype)

    labels = torch.randint(v, (n,))
    if ignored and n > 4:
        labels[[1, 4]] = -100
    tensors = {"hidden": random(n, d), "weight": random(v, d), "bias": random(v)}
    reference = {
        "reference_hidden": random(n, d + 1),
        "reference_weight": random(v, d + 1),
        "reference_bias": random(v),
    }
    return tensors, reference, labels


def run(function, tensors, labels, upstream, needs=("hidden", "weight", "bias"), **options):
    """Values of the fields in `upstream`, and gradients of the mixed loss."""
    leaves = {name: x.detach().clone().requires_grad_(name in needs) for name, x in tensors.items()}
    record = function(
        leaves["hidden"],
        leaves["weight"],
        labels,
        bias=leaves.get("bias"),
        statistics=tuple(upstream),
        **options,
    )
    loss = sum((getattr(record, name) * g).sum() for name, g in upstream.items() if g is not None)
    wanted = [leaves[name] for name in needs]
    return record, dict(zip(needs, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True))


def random_upstream(names=DIFFERENTIABLE, n=N, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(n, generator=generator, dtype=dtype) for name in names}


def compare(ours, dense, tolerance=1e-10):
    (record, gradients), (expected, expected_gradients) = ours, dense
    for name in FIELDS:
        if getattr(expected, name) is not None:
            torch.testing.assert_close(getattr(record, name), getattr(expected, name), rtol=tolerance, atol=tolerance)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(
            gradients[name], gradient, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("field", DIFFERENTIABLE)
def test_gradcheck(field, options):
    tensors, reference, labels = problem(n=3, d=3, v=7, ignored=False)
    labels[1] = -100

    def value(hidden, weight, bias):
        record = linear_token_statistics(
            hidden, weight, labels, statistics=(field,), bias=bias, workspace_bytes=200, **reference, **OPTIONS[options]
        )
        return getattr(record, field)

    assert torch.autograd.gradcheck(value, [x.requires_grad_() for x in tensors.values()])


@pytest.mark.parametrize("workspace", WORKSPACES)
@pytest.mark.parametrize("options", OPTIONS)
def test_all_fields_with_mixed_upstream_gradients(options, workspace):
    tensors, reference, labels = problem()
    upstream = {**random_upstream(), **dict.fromkeys(NOT_DIFFERENTIABLE)}
    args = (tensors, labels, upstream)
    ours = run(linear_token_statistics, *args, **reference, **OPTIONS[options], workspace_bytes=workspace)
    compare(ours, run(dense_linear_token_statistics, *args, **reference, **OPTIONS[options]))


@pytest.mark.parametrize("field", DIFFERENTIABLE)
@pytest.mark.parametrize("workspace", [None, 600])
def test_each_field_alone_forms_only_what_it_needs(field, workspace):
    tensors, reference, labels = problem()
    args = (tensors, labels, random_upstream((field,)))
    ours = run(linear_token_statistics, *args, **reference, workspace_bytes=workspace)
    compare(ours, run(dense_linear_token_statistics, *args, **reference))


@pytest.mark.parametrize("workspace", [None, 600, WORKSPACES[-1]])
def test_any_two_fields_of_which_the_first_has_a_gradient(workspace):
    tensors, reference, labels = problem()
    for first in DIFFERENTIABLE:
        for second in FIELDS:
            args = (tensors, labels, {**random_upstream((first,)), **({} if second == first else {second: None})})
            ours = run(linear_token_statistics, *args, **reference, workspace_bytes=workspace)
            compare(ours, run(dense_linear_token_statistics, *args, **reference))


@pytest.mark.parametrize("needs", [("hidden",), ("weight",), ("bias",), ("hidden", "bias"), ("weight", "bias")])
@pytest.mark.parametrize("workspace", [None, 600])
def test_any_part_may_be_frozen(needs, workspace):
    tensors, reference, labels = problem()
    args = (tensors, labels, random_upstream(("log_prob", "entropy", "reference_kl")), needs)
    ours = run(linear_token_statistics, *args, **reference, workspace_bytes=workspace)
    compare(ours, run(dense_linear_token_statistics, *args, **reference))


def test_two_fields_of_which_one_has_no_gradient():
    tensors, _, labels = problem()
    hidden = tensors["hidden"].requires_grad_()
    record = linear_token_statistics(hidden, tensors["weight"], labels, statistics=("log_prob", "entropy", "top_token"))
    record.entropy.sum().backward()
    expected = tensors["hidden"].detach().clone().requires_grad_()
    dense_linear_token_statistics(expected, tensors["weight"], labels, statistics=("entropy",)).entropy.sum().backward()
    torch.testing.assert_close(hidden.grad, expected.grad)
    assert record.top_token.dtype == torch.int64


def test_reference_defaults_to_the_models_own_head_and_bias():
    tensors, reference, labels = problem()
    own = {"reference_hidden": torch.randn(N, D, dtype=torch.float64)}
    upstream = random_upstream(("reference_kl", "reverse_kl"))
    ours = run(linear_token_statistics, tensors, labels, upstream, **own)
    explicit = {"reference_weight": tensors["weight"], "reference_bias": tensors["bias"]}
    compare(ours, run(dense_linear_token_statistics, tensors, labels, upstream, **own, **explicit), 1e-9)
    # a head of its own without a bias has none: the model's is not borrowed
    del reference["reference_bias"]
    ours = run(linear_token_statistics, tensors, labels, upstream, **reference)
    compare(ours, run(dense_linear_token_statistics, tensors, labels, upstream, **reference), 1e-9)


def test_reference_carries_no_gradient():
    tensors, reference, labels = problem()
    leaves = {name: x.requires_grad_() for name, x in reference.items()}
    hidden = tensors["hidden"].requires_grad_()
    record = linear_token_statistics(
        hidden, tensors["weight"], labels, statistics=("reference_kl", "reference_log_prob"), **leaves
    )
    assert not record.reference_log_prob.requires_grad
    record.reference_kl.sum().backward()
    assert all(x.grad is None for x in leaves.values())


def test_gradient_of_a_field_beside_the_references_log_prob_alone():
    tensors, reference, labels = problem()
    upstream = random_upstream(("log_prob", "reference_log_prob"))
    ours = run(linear_token_statistics, tensors, labels, upstream, **reference)
    compare(ours, run(dense_linear_token_statistics, tensors, labels, upstream, **reference), 1e-9)


def test_same_model_as_reference_gives_exact_zeros():
    tensors, _, labels = problem(torch.float32, n=40, d=16, v=301)
    args = (tensors, labels, random_upstream(("reference_kl", "reverse_kl"), 40, torch.float32))
    record, gradients = run(linear_token_statistics, *args, reference_hidden=tensors["hidden"])
    assert record.reference_kl.abs().max() == record.reverse_kl.abs().max() == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients.values())


@pytest.mark.parametrize("workspace", [None, 600])
def test_ignored_tokens_give_zero_and_cost_nothing(workspace):
    tensors, reference, labels = problem()
    tensors["hidden"][labels == -100] = float("nan")  # would spoil everything if it were read
    reference["reference_hidden"][labels == -100] = float("nan")
    upstream = {**random_upstream(), **dict.fromkeys(NOT_DIFFERENTIABLE)}
    record, gradients = run(linear_token_statistics, tensors, labels, upstream, **reference, workspace_bytes=workspace)
    for name in FIELDS:
        assert getattr(record, name)[labels == -100].tolist() == [0, 0]
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["hidden"][labels == -100].abs().sum() == 0


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_token_at_all(n, dtype):
    tensors, reference, _ = problem(dtype, n=n)
    args = (tensors, torch.full((n,), -100), random_upstream(n=n))
    record, gradients = run(linear_token_statistics, *args, **reference)
    for name in DIFFERENTIABLE:
        assert getattr(record, name).tolist() == [0] * n
    for name, gradient in gradients.items():
        assert gradient.shape == tensors[name].shape
        assert gradient.dtype == dtype
        assert gradient.abs().sum() == 0


@pytest.mark.parametrize(("n", "v"), [(1, 23), (6, 1), (6, 2), (1, 1)])
@pytest.mark.parametrize("workspace", [None, 1])
def test_one_token_and_tiny_vocabularies(n, v, workspace):
    tensors, reference, labels = problem(n=n, v=v, ignored=False)
    names = [name for name in FIELDS if v > 1 or name not in ("log_complement", "top_other_log_prob")]
    upstream = {name: random_upstream(n=n).get(name) for name in names}
    ours = run(linear_token_statistics, tensors, labels, upstream, **reference, workspace_bytes=workspace)
    compare(ours, run(dense_linear_token_statistics, tensors, labels, upstream, **reference), 1e-9)


def test_other_ignore_index_and_none():
    tensors, _, labels = problem(ignored=False)
    labels[:] = torch.tensor([0, 1, 0, 2, 3, 4])
    hidden, weight = tensors["hidden"], tensors["weight"]
    dropped = linear_token_statistics(hidden, weight, labels, ignore_index=0).log_prob
    every = linear_token_statistics(hidden, weight, labels, ignore_index=None).log_prob
    assert dropped[[0, 2]].tolist() == [0, 0]
    assert (every != 0).all()
    torch.testing.assert_close(dropped[[1, 3, 4, 5]], every[[1, 3, 4, 5]])


def test_non_contiguous_inputs_and_int32_labels():
    tensors, _, labels = problem()
    upstream = random_upstream(("log_prob", "entropy"))
    strided = {
        "hidden": tensors["hidden"].t().contiguous().t(),
        "weight": torch.stack([tensors["weight"]] * 2, 2)[..., 0],
        "bias": torch.stack([tensors["bias"]] * 2, 1)[:, 0],
    }
    assert not any(x.is_contiguous() for x in strided.values())
    leaves = {name: x.requires_grad_() for name, x in strided.items()}
    record = linear_token_statistics(leaves["hidden"], leaves["weight"], labels.int(), bias=leaves["bias"])
    loss = sum((getattr(record, name) * g).sum() for name, g in upstream.items())
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    compare((record, gradients), run(dense_linear_token_statistics, tensors, labels, upstream))


def test_tied_weights_and_shared_storage():
    torch.manual_seed(0)
    embedding = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    tokens, labels = torch.randint(V, (N,)), torch.randint(V, (N,))

    def gradient(function):
        hidden = embedding[tokens] * 2
        record = function(
            hidden, embedding, labels, statistics=("log_prob", "reference_kl"), reference_hidden=hidden.detach() * 0.5
        )
        return torch.autograd.grad(record.log_prob.sum() + record.reference_kl.sum(), embedding)[0]

    torch.testing.assert_close(gradient(linear_token_statistics), gradient(dense_linear_token_statistics))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_recorded(mode):
    tensors, reference, labels = problem()
    tensors["weight"].requires_grad_()
    with mode():
        record = linear_token_statistics(
            tensors["hidden"], tensors["weight"], labels, statistics=FIELDS, bias=tensors["bias"], **reference
        )
    expected = dense_linear_token_statistics(
        tensors["hidden"], tensors["weight"], labels, statistics=FIELDS, bias=tensors["bias"], **reference
    )
    for name in FIELDS:
        assert not getattr(record, name).requires_grad
        torch.testing.assert_close(getattr(record, name), getattr(expected, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("workspace", [None, 600])
def test_activation_checkpointing(workspace):
    tensors, _, labels = problem()
    weight = tensors["weight"].requires_grad_()

    def loss(scale):
        s = linear_token_statistics(tensors["hidden"] * scale, weight, labels, workspace_bytes=workspace)
        return (s.log_prob + s.entropy.square()).sum()

    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    plain = torch.autograd.grad(loss(scale), (scale, weight))
    again = torch.autograd.grad(checkpoint(loss, scale, use_reentrant=False), (scale, weight))
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)


def test_backward_twice_through_kept_tiles():
    tensors, _, labels = problem()
    hidden = tensors["hidden"].requires_grad_()
    loss = linear_token_statistics(hidden, tensors["weight"], labels).entropy.sum()
    first = torch.autograd.grad(loss, hidden, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, hidden)[0], first, rtol=0, atol=0)


def test_autocast_changes_nothing():
    tensors, _, labels = problem(torch.float32)
    args = (tensors, labels, random_upstream(("log_prob", "entropy"), dtype=torch.float32))
    plain = run(linear_token_statistics, *args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(linear_token_statistics, *args)
    compare(inside, plain, 0.0)


def test_mixed_dtypes_take_the_wider_and_gradients_their_own():
    tensors, _, labels = problem(torch.float32)
    mixed = {**tensors, "hidden": tensors["hidden"].bfloat16()}
    record, gradients = run(linear_token_statistics, mixed, labels, random_upstream(("log_prob",), dtype=torch.float32))
    widened = {**tensors, "hidden": mixed["hidden"].float()}
    expected = run(dense_linear_token_statistics, widened, labels, random_upstream(("log_prob",), dtype=torch.float32))
    torch.testing.assert_close(record.log_prob, expected[0].log_prob)
    assert record.log_prob.dtype == torch.float32
    assert gradients["hidden"].dtype == torch.bfloat16
    assert gradients["weight"].dtype == torch.float32
    torch.testing.assert_close(gradients["weight"], expected[1]["weight"])


class Recorder(TorchDispatchMode):
    """Notes the largest tensor that any operation returns, and multiplications in, and number of, matrix products."""

    largest = 0
    multiplications = 0
    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function._schema.name in ("aten::mm", "aten::addmm"):
            a, b = args[-2:]
            self.multiplications += a.shape[0] * a.shape[1] * b.shape[1]
            self.calls += 1
        for x in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_never_held(dtype):
    n, d, v = 96, 8, 4099
    tensors, reference, labels = problem(dtype, n, d, v)
    workspace = 400_000  # [N, V] in float32 is 1 574 016 bytes
    with Recorder() as recorder:
        run(linear_token_statistics, tensors, labels, random_upstream(n=n), **reference, workspace_bytes=workspace)
    assert recorder.largest < n * v / 4
    assert recorder.largest <= max(workspace / 4, v * (d + 1))


def counted(fields, needs, reference=None, n=64, d=8, v=1024, **options):
    """Matrix products of the head that a step took, and the schedule that said so; values are checked too."""
    tensors, _, labels = problem(torch.float32, n, d, v, ignored=False)
    upstream = {name: random_upstream(n=n, dtype=torch.float32).get(name) for name in fields}
    args, schedules = (tensors, labels, upstream, needs), []
    reference = {} if reference is None else reference
    with Recorder() as recorder:
        ours = run(linear_token_statistics, *args, **reference, **options, explain=schedules.append)
    compare(ours, run(dense_linear_token_statistics, *args, **reference), 2e-4)
    (schedule,) = schedules
    return recorder.multiplications / (n * d * v), schedule, recorder


SOME = 4 * 64 * 1024 * 3 // 2  # scratch, and half of the logits
BOTH, FROZEN = ("hidden", "weight"), ("hidden",)


@pytest.mark.parametrize(
    ("fields", "needs", "has_reference", "workspace", "name", "products"),
    [
        (("log_prob",), BOTH, False, None, "recompute", 3),  # logits, d_hidden, d_weight: all logits are kept
        (("log_prob",), BOTH, False, 40_000, "recompute", 4),
        (("log_prob",), ("weight",), False, 40_000, "recompute", 3),
        (("log_prob",), ("bias",), False, 40_000, "recompute", 2),
        (("log_prob",), FROZEN, False, None, "recompute", 2),
        (("log_prob",), FROZEN, False, SOME, "unit gradients", 2),
        (("log_prob", "top_token"), FROZEN, False, SOME, "unit gradients", 2),
        (("log_prob", "entropy"), FROZEN, False, 40_000, "recompute", 3),
        (("log_prob",), FROZEN, False, 40_000, "recompute", 3),  # too few tokens fit at once
        (("log_prob", "reference_kl"), BOTH, True, None, "recompute", 4),
        (("log_prob", "reference_kl"), BOTH, True, 40_000, "recompute", 6),
        (("log_prob", "reference_log_prob"), BOTH, True, 40_000, "recompute", 5),  # the reference's logits once
        (("reference_kl",), FROZEN, True, 2 * SOME, "unit gradients", 3),
        (("reference_kl", "log_prob"), FROZEN, True, 2 * SOME, "unit gradients", 4),
        (("reference_kl", "log_prob", "entropy"), FROZEN, True, 40_000, "recompute", 5),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_the_schedule_and_its_products(monkeypatch, fields, needs, has_reference, workspace, name, products, shared):
    monkeypatch.setattr("unlearn_kernels.tiles.FAST_ROWS", 16)
    reference = None
    if has_reference:
        torch.manual_seed(1)
        reference = {"reference_hidden": torch.randn(64, 8)}
        if not shared:
            reference |= {"reference_weight": torch.randn(1024, 8)}
    taken, schedule, _ = counted(fields, needs, reference, workspace_bytes=workspace)
    assert schedule.name == name
    assert schedule.products == pytest.approx(taken, abs=0.02)
    if schedule.tiling.kept in (0, len(schedule.tiling.columns)):
        assert taken == products


def test_partly_kept_logits_are_partly_formed_again(monkeypatch):
    monkeypatch.setattr("unlearn_kernels.tiles.FAST_COLUMNS", 64)
    monkeypatch.setattr("unlearn_kernels.tiles.CACHE_CPU", 65536)
    taken, schedule, _ = counted(("log_prob",), BOTH, workspace_bytes=200_000)
    assert 0 < schedule.tiling.kept < len(schedule.tiling.columns)
    assert 3 < taken < 4
    assert schedule.products == pytest.approx(taken, abs=1e-6)


def test_a_shared_head_takes_one_product_for_both_models():
    reference = {"reference_hidden": torch.randn(64, 8)}
    weight = problem(torch.float32, 64, 8, 1024, ignored=False)[0]["weight"].clone()
    _, schedule, shared = counted(("reference_kl",), BOTH, reference, workspace_bytes=40_000)
    _, other, apart = counted(
        ("reference_kl",), BOTH, {**reference, "reference_weight": weight}, workspace_bytes=40_000
    )
    tiles = len(schedule.tiling.rows) * len(schedule.tiling.columns)
    assert schedule.tiling.columns == other.tiling.columns
    assert (shared.calls, apart.calls) == (4 * tiles, 6 * tiles)  # logits twice; d_hidden, d_weight


def test_no_gradient_and_what_explain_prints(capsys):
    with torch.no_grad():
        linear_token_statistics(torch.randn(6, 4), torch.randn(30, 4), torch.arange(6), explain=print)
    assert capsys.readouterr().out == (
        "no gradient: 1.00 G (1.00 logits + 0 hidden + 0 weight), 1 x 1 tiles of 6 tokens x 30 columns, 0 slices kept\n"
    )


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("field", DIFFERENTIABLE)
def test_unit_gradients_equal_the_dense_ones(monkeypatch, field, options):
    monkeypatch.setattr("unlearn_kernels.tiles.FAST_ROWS", 2)
    tensors, reference, labels = problem()
    upstream = random_upstream((field,))
    args = (tensors, labels, {**upstream, "top_token": None, "reference_log_prob": None}, ("hidden",))
    schedules = []
    for workspace in (2000, 3000, 5000):
        explain = {"workspace_bytes": workspace, "explain": schedules.append}
        ours = run(linear_token_statistics, *args, **reference, **OPTIONS[options], **explain)
        compare(ours, run(dense_linear_token_statistics, *args, **reference, **OPTIONS[options]))
    assert "unit gradients" in {schedule.name for schedule in schedules}


def test_unit_gradients_of_two_fields_scale_with_either_ones_upstream(monkeypatch):
    monkeypatch.setattr("unlearn_kernels.tiles.FAST_ROWS", 2)
    tensors, reference, labels = problem()
    hidden, schedules = tensors["hidden"].requires_grad_(), []
    record = linear_token_statistics(
        hidden,
        tensors["weight"],
        labels,
        statistics=("log_prob", "reference_kl", "reference_log_prob"),
        **reference,
        workspace_bytes=2000,
        explain=schedules.append,
    )
    assert schedules[0].name == "unit gradients"
    assert len(schedules[0].tiling.rows) > 1
    dense = dense_linear_token_statistics(
        hidden, tensors["weight"], labels, statistics=("log_prob", "reference_kl"), **reference
    )
    for pick in (lambda s: s.log_prob.sum(), lambda s: (2 * s.reference_kl + s.log_prob.square()).sum()):
        (ours,) = torch.autograd.grad(pick(record), hidden, retain_graph=True)
        torch.testing.assert_close(ours, torch.autograd.grad(pick(dense), hidden, retain_graph=True)[0])


def lora_problem(dtype=torch.float64):
    tensors, reference, labels = problem(dtype)
    torch.manual_seed(5)
    return tensors, {"A": torch.randn(2, D, dtype=dtype), "B": torch.randn(V, 2, dtype=dtype)}, reference, labels


@pytest.mark.parametrize("workspace", WORKSPACES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("head_trains", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_adapter_of_the_head(workspace, options, head_trains, shared):
    tensors, adapter, reference, labels = lora_problem()
    if shared:
        reference = {"reference_hidden": torch.randn(N, D, dtype=torch.float64)}
    leaves = {name: x.requires_grad_(name != "weight" or head_trains) for name, x in {**tensors, **adapter}.items()}
    h, w, a, b = leaves["hidden"], leaves["weight"], leaves["A"], leaves["B"]
    options = {**OPTIONS[options], **reference, "statistics": FIELDS}
    low_rank = {"adapter_hidden": 0.5 * h @ a.T, "adapter_weight": b, "workspace_bytes": workspace}
    ours = linear_token_statistics(h, w, labels, bias=leaves["bias"], **low_rank, **options)
    upstream, wanted = random_upstream(), [name for name, x in leaves.items() if x.requires_grad]
    loss = sum((getattr(ours, n) * g).sum() for n, g in upstream.items())
    gradients = torch.autograd.grad(loss, [leaves[name] for name in wanted])
    if not shared:
        options |= {"reference_weight": reference["reference_weight"]}
    else:  # the reference has no adapter
        options |= {"reference_weight": w.detach(), "reference_bias": leaves["bias"].detach()}
    dense = dense_linear_token_statistics(h, w + 0.5 * b @ a, labels, bias=leaves["bias"], **options)
    loss = sum((getattr(dense, n) * g).sum() for n, g in upstream.items())
    expected = torch.autograd.grad(loss, [leaves[name] for name in wanted])
    for name in FIELDS:
        torch.testing.assert_close(getattr(ours, name), getattr(dense, name), rtol=1e-9, atol=1e-9)
    for name, found, wants in zip(wanted, gradients, expected, strict=True):
        torch.testing.assert_close(found, wants, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_adapters_gradients_need_none_of_the_heads_size():
    n, d, v, r = 8, 64, 4096, 2
    h, w, u, b = torch.randn(n, d), torch.randn(v, d), torch.randn(n, r), torch.randn(v, r)
    u.requires_grad_()
    b.requires_grad_()
    with Recorder() as recorder:
        record = linear_token_statistics(
            h, w, torch.arange(n), adapter_hidden=u, adapter_weight=b, workspace_bytes=60_000
        )
        torch.autograd.grad(record.log_prob.sum(), (u, b))
    assert recorder.largest < v * d / 4  # a view of a slice of the head


class NoFunctions(TorchFunctionMode):
    """Fails where the host reads a tensor's value."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert getattr(function, "__name__", "") not in (
            "item",
            "tolist",
            "nonzero",
            "__int__",
            "__bool__",
            "__float__",
        )
        return function(*args, **(kwargs or {}))


def test_nothing_is_read_back_when_no_token_is_ignored(monkeypatch):
    tensors, reference, labels = problem(ignored=False)
    monkeypatch.setattr("unlearn_kernels.arguments.check_label_range", lambda *_: None)  # made on a CPU only
    upstream = {**random_upstream(), **dict.fromkeys(NOT_DIFFERENTIABLE)}
    with NoFunctions():
        run(linear_token_statistics, tensors, labels, upstream, **reference, ignore_index=None, workspace_bytes=600)
