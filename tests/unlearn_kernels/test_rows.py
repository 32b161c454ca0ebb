"""The row kernels, in Triton's interpreter where there is no GPU, against float64 definitions of the same sums."""

import pytest
import torch

from unlearn_kernels.merge import Partial, merge

rows = pytest.importorskip("unlearn_kernels.rows", reason="needs triton", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SUMS = ("label", "maximum", "total", "logit_sum", "first", "second", "gap")
REFERENCE_SUMS = ("label", "maximum", "total", "first", "gap", "excess")
FLAGS = ("logit_sum", "first", "second", "gap", "index", "reference_first", "reference_gap", "excess")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# below, at and beyond a block of each of the sizes that ship; none but 1024 and 2048 divides by 16
WIDTHS = [1, 2, 23, 1024, 1025, 2048, 5003]


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def problem(n, c, dtype=torch.float32, scale=3.0, seed=0):
    """Logits, the reference's close by, and labels of which the first lies outside."""
    generator = torch.Generator().manual_seed(seed)
    z = (torch.randn(n, c, generator=generator) * scale).to(dtype)
    r = (z.float() + torch.randn(n, c, generator=generator) * 0.3).to(dtype)
    labels = torch.randint(c, (n,), generator=generator)
    labels[0] = -5
    return z.to(DEVICE), r.to(DEVICE), labels.to(DEVICE)


def definition(z, r, labels):
    """Every sum over the columns but the label's, in float64."""
    z, r, labels = z.double().cpu(), r.double().cpu(), labels.cpu()
    column = torch.arange(z.shape[1])
    counted, inside = column != labels[:, None], (labels >= 0) & (labels < z.shape[1])

    def side(x, other):
        label = torch.where(inside, x.gather(1, labels.clamp(0, x.shape[1] - 1)[:, None])[:, 0], float("-inf"))
        maximum = x.masked_fill(~counted, torch.finfo(torch.float32).min).amax(1)
        d = (x - maximum[:, None]).masked_fill(~counted, 0)
        e = d.exp() * counted
        total, first = e.sum(1), (e * d).sum(1)
        second = (e * (d - (first / total.clamp_min(1e-30))[:, None]) ** 2).sum(1)
        return {
            "label": label,
            "maximum": maximum,
            "total": total,
            "logit_sum": (x * counted).sum(1),
            "first": first,
            "second": second,
            "gap": (e * (z - r)).sum(1),
            "excess": (e * (z - r).expm1()).sum(1),
            "index": x.masked_fill(~counted, float("-inf")).argmax(1),
        }

    return side(z, r), side(r, z)


def call(z, r, labels, *flags, index=None, start=0):
    """The kernel's sums, by name, and its index."""
    sums, where = torch.ops.unlearn_kernels.row_sums(z, r, labels, index, start, *(name in flags for name in FLAGS))
    sums = sums.double().cpu()
    own = dict(zip(SUMS, sums, strict=False))
    return own, dict(zip(REFERENCE_SUMS, sums[len(SUMS) :], strict=False)), where.cpu()


def agree(found, expected, names, rtol=2e-6, atol=2e-6):
    for name in names:
        torch.testing.assert_close(
            found[name], expected[name], rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", WIDTHS)
def test_all_sums(c, dtype):
    z, r, labels = problem(2, c, dtype)
    own, reference, index = call(z, r, labels, *FLAGS)
    expected, expected_reference = definition(z, r, labels)
    agree(own, expected, SUMS, atol=1e-6 * c)
    agree(reference, expected_reference, REFERENCE_SUMS, atol=1e-6 * c)
    assert index[0] == expected["index"][0]
    assert index[1] == expected["index"][1] or c == 1  # nothing but the label


@pytest.mark.parametrize("flag", [None, *FLAGS])
def test_each_sum_alone_is_what_it_is_among_all_and_the_rest_is_not_taken(flag):
    z, r, labels = problem(2, 1300)
    wanted = {flag, "first"} if flag == "second" else {flag}
    own, reference, index = call(z, r, labels, *wanted)
    all_own, all_reference, all_index = call(z, r, labels, *FLAGS)
    always = {"label", "maximum", "total"}
    of_reference = {"reference_first": "first", "reference_gap": "gap", "excess": "excess"}.get(flag)
    for found, everything, taken in ((own, all_own, wanted), (reference, all_reference, {of_reference})):
        for name, value in found.items():
            expected = everything[name] if name in always | taken else torch.zeros(2).double()
            assert torch.equal(value, expected), name
    assert index.tolist() == (all_index.tolist() if flag == "index" else [])


def test_without_a_reference():
    z, r, labels = problem(2, 1300)
    own, reference, index = call(z, None, labels, "logit_sum", "first", "second", "index")
    everything, _, all_index = call(z, r, labels, *FLAGS)
    assert reference == {}
    agree(own, everything, set(SUMS) - {"gap"}, 0, 0)
    assert torch.equal(index, all_index)


def test_slices_of_the_vocabulary_merge_to_the_whole():
    z, _, labels = problem(3, 2500)
    whole, _, whole_index = call(z, None, labels, "logit_sum", "first", "second", "index")
    merged = None
    for a, b in ((0, 1100), (1100, 1101), (1101, 2500)):
        part = call(z[:, a:b], None, labels, "logit_sum", "first", "second", "index", start=a)
        own = part[0]
        partial = Partial(own["maximum"], own["total"], own["logit_sum"], own["first"], own["second"], index=part[2])
        merged = partial if merged is None else merge(merged, partial)
    agree(vars(merged), whole, ("maximum", "total", "logit_sum", "first", "second"))
    assert torch.equal(merged.index, whole_index)


def test_labels_count_from_the_start_and_may_lie_on_either_side():
    z, _, _ = problem(4, 50)
    labels = torch.tensor([99, 100, 149, 150], device=DEVICE)
    own, _, index = call(z, None, labels, "index", start=100)
    expected, _ = definition(z, z, labels - 100)
    agree(own, expected, ("label", "maximum", "total"))
    assert own["label"].isinf().tolist() == [True, False, False, True]
    assert torch.equal(index, expected["index"] + 100)


def test_a_slice_with_nothing_but_the_label_is_neutral():
    own, _, _ = call(torch.tensor([[9.0]], device=DEVICE), None, torch.tensor([0], device=DEVICE), "first", "second")
    assert own["total"].item() == own["first"].item() == own["second"].item() == 0
    assert own["maximum"].item() == torch.finfo(torch.float32).min
    assert own["label"].item() == 9


def test_equal_maxima_give_the_smallest_column_within_and_across_blocks():
    z = torch.zeros(2, 9000, device=DEVICE)
    z[0, [500, 300, 8000]] = 5.0
    z[1, [8500, 8100]] = 5.0
    assert call(z, None, torch.tensor([0, 8100], device=DEVICE), "index")[2].tolist() == [300, 8500]


@pytest.mark.parametrize("value", [-150.0, 0.0, 3e4])
def test_equal_logits(value):
    z = torch.full((1, 5000), value, device=DEVICE)
    own, reference, _ = call(z, z.clone(), torch.tensor([7], device=DEVICE), *FLAGS)
    assert own["total"].item() == 4999
    assert own["first"].item() == own["second"].item() == own["gap"].item() == 0
    assert reference["excess"].item() == reference["gap"].item() == 0


def test_a_maximum_that_rises_in_every_block_and_one_that_falls():
    z = torch.linspace(-200, 200, 9001, device=DEVICE).repeat(2, 1)
    z[1] = z[1].flip(0)
    labels = torch.tensor([3, 3], device=DEVICE)
    own, _, _ = call(z, z, labels, *FLAGS)
    expected, _ = definition(z, z, labels)
    agree(own, expected, SUMS, rtol=1e-5, atol=0.1)  # 9001 logits up to 200, summed


@pytest.mark.parametrize("gap", [1e-7, 1e-4, 0.4, 0.6, 5.0, -5.0, -80.0])
def test_excess_keeps_its_digits(gap):
    z = torch.full((1, 40), 0.0, device=DEVICE)
    _, reference, _ = call(z + gap, z, torch.tensor([-1], device=DEVICE), "excess")
    assert reference["excess"].item() == pytest.approx(40 * torch.tensor(gap).float().double().expm1().item(), rel=2e-6)


def test_some_rows_in_any_order_and_strides():
    z, r, labels = problem(6, 70)
    wide = torch.full((6, 100), float("nan"), device=DEVICE)
    wide[:, :70] = z
    index = torch.tensor([5, 0, 3], device=DEVICE)
    own, reference, _ = call(wide[:, :70], r, labels[index], *FLAGS, index=index)
    expected, _, _ = call(z[index], r[index], labels[index], *FLAGS)
    agree(own, expected, SUMS, 0, 0)
    assert reference["total"].isfinite().all()


def test_no_token():
    z, r, _ = problem(3, 20)
    none = torch.empty(0, dtype=torch.int64, device=DEVICE)
    sums, index = torch.ops.unlearn_kernels.row_sums(z[:0], r[:0], none, None, 0, *[True] * 8)
    assert sums.shape == (13, 0)
    assert index.shape == (0,)
    gradient(z[:0], None, none, empty_terms())


def test_offsets_beyond_31_bits():
    apart = 2**31 + 16
    storage = torch.empty(0, dtype=torch.bfloat16, device=DEVICE)
    torch.use_deterministic_algorithms(False)  # would fill 4 GiB; untouched pages take no memory
    storage = torch.empty(apart + 64, dtype=torch.bfloat16, device=DEVICE)
    z = storage.as_strided((2, 40), (apart, 1))
    z[0], z[1] = 1.0, torch.arange(40, device=DEVICE)
    labels = torch.tensor([3, 7], device=DEVICE)
    own, _, _ = call(z, None, labels)
    agree(own, definition(z, z, labels)[0], ("label", "maximum", "total"))
    terms = {**empty_terms(), "c": torch.tensor([1.0, 2.0], device=DEVICE)}
    gradient(z, None, labels, terms, label=torch.tensor([5.0, 6.0], device=DEVICE), maximum=labels.float())
    assert z[1].tolist() == [2.0] * 7 + [6.0] + [2.0] * 32
    assert z[0, 3].item() == 5


# --- gradient ---

TERMS = ("a", "b", "c", "v", "k", "gap", "p_scale", "q_scale", "reference_maximum")


def empty_terms():
    return dict.fromkeys((*TERMS, "hot", "hot_value", "second_hot", "second_hot_value"))


def gradient(z, r, labels, terms, *, label=None, maximum=None, out=None, index=None, start=0, cap=None):
    """The kernel's gradient in `out`, or in place of the logits."""
    n = len(labels)
    label = torch.full((n,), 7.0, device=DEVICE) if label is None else label
    maximum = torch.zeros(n, device=DEVICE) if maximum is None else maximum
    target, logits = (z, None) if out is None else (out, z)
    order = [terms[name] for name in (*TERMS, "hot", "hot_value", "second_hot", "second_hot_value")]
    torch.ops.unlearn_kernels.row_gradient(target, logits, r, labels, index, start, cap, maximum, label, *order)
    return target


def gradient_problem(n, c, dtype=torch.float32):
    z, r, labels = problem(n, c, dtype)
    generator = torch.Generator().manual_seed(3)
    vectors = {name: torch.randn(n, generator=generator).to(DEVICE) for name in ("a", "b", "c", "v", "k")}
    p, q = z.float().softmax(1).amax(1), r.float().softmax(1).amax(1)  # e^d p_scale with d around the maximum
    maxima = {"maximum": z.float().amax(1), "reference_maximum": r.float().amax(1)}
    vectors |= {"p_scale": p, "q_scale": q, **maxima}
    vectors["gap"] = (maxima["maximum"] - p.log()) - (maxima["reference_maximum"] - q.log())
    vectors |= {"hot_value": vectors["a"] + 1, "second_hot_value": vectors["a"] + 2}
    vectors |= {"hot": torch.arange(n, device=DEVICE) % c, "second_hot": torch.arange(n, device=DEVICE) * 31}
    return z, r, labels, vectors


def gradient_definition(z, r, labels, terms, vectors, cap=None):
    """The formula in float64."""
    z, r, labels = z.double().cpu(), r.double().cpu(), labels.cpu()

    def t(name):
        x = terms[name]
        return 0 if x is None else x.double().cpu()[:, None]

    d = z - vectors["maximum"].double().cpu()[:, None]
    r_d = r - vectors["reference_maximum"].double().cpu()[:, None]
    delta = z - r - vectors["gap"].double().cpu()[:, None]
    out = d.exp() * (t("a") + t("b") * d + t("v") * delta) + t("c")
    if terms["k"] is not None:
        out = out + t("k") * (d.exp() * t("p_scale") - r_d.exp() * t("q_scale"))
    column = torch.arange(z.shape[1])
    out = torch.where(column == labels[:, None], 7.0, out)
    for name in ("hot", "second_hot"):
        if terms[name] is not None:
            out = out + (column == terms[name].cpu()[:, None]) * t(name + "_value")
    return out if cap is None else out * (1 - (z / cap) ** 2)


def chosen(vectors, names):
    """The vectors of some terms, with those that they need beside them."""
    beside = {"v": ("gap",), "k": ("gap", "p_scale", "q_scale"), "hot": ("hot_value",)}
    beside["second_hot"] = ("second_hot_value",)
    needed = {x for name in names for x in (name, *beside.get(name, ()))}
    needed |= {"reference_maximum"} if needed & {"v", "k"} else set()
    return {name: vectors[name] if name in needed else None for name in empty_terms()}


@pytest.mark.parametrize("cap", [None, 20.0])
@pytest.mark.parametrize("names", [(), "a", "c", "ab", "abc", "k", "kc", "av", "abvkc", ("hot",), ("a", "second_hot")])
def test_gradient_of_each_combination_of_terms(names, cap):
    z, r, labels, vectors = gradient_problem(3, 150)
    terms = chosen(vectors, names)
    reference = r if {"v", "k"} & set(names) else None
    out = gradient(
        z, reference, labels, terms, maximum=vectors["maximum"], out=torch.full_like(z, float("nan")), cap=cap
    )
    expected = gradient_definition(z, r, labels, terms, vectors, cap)
    torch.testing.assert_close(out.double().cpu(), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", WIDTHS)
def test_all_terms_of_the_gradient(c, dtype):
    z, r, labels, vectors = gradient_problem(2, c, dtype)
    terms = chosen(vectors, (*"abcvk", "hot", "second_hot"))
    expected = gradient_definition(z, r, labels, terms, vectors, 25.0)
    in_place = gradient(z.clone(), r, labels, terms, maximum=vectors["maximum"], cap=25.0)
    apart = gradient(z, r, labels, terms, maximum=vectors["maximum"], cap=25.0, out=torch.empty_like(z))
    assert torch.equal(in_place, apart)
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(apart.double().cpu(), expected, rtol=max(1e-5, rounding), atol=max(1e-5, rounding / 16))


def test_gradient_writes_its_rows_alone_and_counts_columns_from_the_start():
    z, r, labels, vectors = gradient_problem(5, 40)
    index = torch.tensor([4, 1], device=DEVICE)
    some = {name: x[index] for name, x in vectors.items()}
    some |= {"hot": some["hot"] + 1000, "second_hot": some["second_hot"] + 1000}
    terms = chosen(some, (*"abcvk", "hot", "second_hot"))
    out = torch.full((5, 60), float("nan"), device=DEVICE)[:, :40]
    places = labels[index] + 1000
    gradient(z, r, places, terms, maximum=some["maximum"], out=out, index=index, start=1000)
    terms |= {"hot": terms["hot"] - 1000, "second_hot": terms["second_hot"] - 1000}
    expected = gradient_definition(z[index], r[index], labels[index], terms, some)
    torch.testing.assert_close(out[index].double().cpu(), expected, rtol=1e-5, atol=2e-6)
    assert out[[0, 2, 3]].isnan().all()


def test_the_same_model_gives_exact_zeros_and_far_models_no_overflow():
    z = torch.tensor([[0.0, 1.0, -2.0]], device=DEVICE)
    one = torch.ones(1, device=DEVICE)
    terms = {**empty_terms(), "k": one, "p_scale": one, "q_scale": one, "gap": 0 * one, "reference_maximum": one}
    labels = torch.tensor([-1], device=DEVICE)
    out = gradient(z, z, labels, terms, maximum=one, out=torch.empty_like(z))
    assert out.tolist() == [[0.0, 0.0, 0.0]]
    r = torch.tensor([[-900.0, 1.0, 900.0]], device=DEVICE)
    terms |= {"reference_maximum": 900 * one, "gap": -899 * one}
    out = gradient(z, r, labels, terms, maximum=one, out=torch.empty_like(z))
    torch.testing.assert_close(out.cpu(), torch.tensor([[torch.e**-1, 1.0, torch.e**-3 - 1]]))


# --- custom operators ---


def operator_arguments():
    z, r, labels, vectors = gradient_problem(2, 40)
    terms = chosen(vectors, (*"abcvk", "hot", "second_hot"))
    order = [terms[name] for name in (*TERMS, "hot", "hot_value", "second_hot", "second_hot_value")]
    label = torch.ones(2, device=DEVICE)
    return (
        (z, r, labels, None, 0, *[True] * 8),
        (torch.zeros_like(z), z, r, labels, None, 0, 30.0, vectors["maximum"], label, *order),
    )


def test_operators_pass_opcheck():
    sums, gradients = operator_arguments()
    torch.library.opcheck(torch.ops.unlearn_kernels.row_sums, sums)
    torch.library.opcheck(torch.ops.unlearn_kernels.row_sums, (sums[0], None, *sums[2:5], *[False] * 8))
    torch.library.opcheck(torch.ops.unlearn_kernels.row_gradient, gradients)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_operators_compile_into_one_graph(backend):
    sums, gradients = operator_arguments()

    def both(z, r):
        a, index = torch.ops.unlearn_kernels.row_sums(z, r, *sums[2:])
        torch.ops.unlearn_kernels.row_gradient(gradients[0], z, r, *gradients[3:])
        return a, index, gradients[0] * 2

    eager = both(sums[0], sums[1])
    compiled = torch.compile(both, fullgraph=True, backend=backend)(sums[0], sums[1])
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_blocks_are_those_of_the_table():
    assert rows.blocks(1024)["BLOCK"] == 1024
    assert rows.blocks(1025) == rows.blocks(10**6) == {"BLOCK": 2048, "num_warps": 8, "enable_fp_fusion": True}
