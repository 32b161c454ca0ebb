import math

import pytest
import torch

from benchmarks import peers
from benchmarks.cases import OPERATIONS, Case, make
from benchmarks.peers import IMPLEMENTATIONS, Unavailable, candidates, reason


def problem(operation="log_prob", source="hidden"):
    return make(Case(operation, source, "trainable", 0.5, 12, 4, 30, "float32", "cpu"))


@pytest.mark.parametrize("source", ["hidden", "logits"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_definitions_and_ours_agree(operation, source):
    one = problem(operation, source)
    ours, dense = peers.ours(one), peers.pytorch(one)
    assert len(ours) == len(dense) == len(one.case.differentiable)
    torch.testing.assert_close(ours, dense)


def test_what_torch_compile_gets_is_the_definitions():
    for source in ("hidden", "logits"):
        one = problem("all", source)
        record = peers._traceable(one.inputs, one.labels, one.reference_inputs, one.case.fields)
        torch.testing.assert_close(one.means(peers.TokenStatistics(**record)), peers.pytorch(one))


def test_scalars_become_means_of_our_fields():
    one = problem("uniform_kl")

    def smoothed(problem):
        hidden, weight = problem.inputs
        return (torch.nn.functional.cross_entropy(hidden @ weight.T, problem.labels, label_smoothing=1.0),)

    torch.testing.assert_close(peers._uniform_kl(smoothed)(one), peers.pytorch(one))
    assert peers._log_prob(lambda _: (torch.tensor(2.0),))(one) == (-2.0,)
    assert math.isclose(float(peers._uniform_kl(lambda _: (torch.tensor(0.0),))(one)[0]), -math.log(30), rel_tol=1e-6)


def test_a_peer_that_cannot_serve_says_why(monkeypatch):
    liger = IMPLEMENTATIONS["liger-kernel"]
    with pytest.raises(Unavailable, match="offers no all from hidden"):
        liger.function(problem("all"))
    monkeypatch.setattr(peers, "version", lambda package: None)
    with pytest.raises(Unavailable, match="not installed"):
        liger.function(problem())
    monkeypatch.setattr(peers, "version", lambda package: "1.0")
    for name in ("liger-kernel", "cut-cross-entropy", "quack-kernels"):
        with pytest.raises(Unavailable, match="needs a GPU"):
            IMPLEMENTATIONS[name].function(problem())(problem())


def test_reasons_are_short():
    assert reason(Unavailable("needs a GPU")) == "needs a GPU"
    assert reason(RuntimeError("out of memory\nTried to allocate")) == "RuntimeError: out of memory"
    assert reason(RuntimeError()) == "RuntimeError: "
    assert len(reason(RuntimeError("x" * 500))) == 90


def test_variants_have_rows_where_they_serve_and_others_everywhere():
    def names(one):
        return [x.name for x in candidates(one, tuple(IMPLEMENTATIONS))]

    assert "cut-cross-entropy compile" in names(problem())
    assert "cut-cross-entropy compile" not in names(problem("uniform_kl"))
    assert "cut-cross-entropy" in names(problem("uniform_kl"))
    assert names(problem(source="row sums")) == ["unlearn_kernels", "pytorch"]
