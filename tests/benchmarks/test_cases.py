from dataclasses import replace

import torch

from benchmarks.cases import IGNORED, PRESETS, Case, make, step

CASE = Case("reference_kl", "hidden", "frozen", 0.6, 10, 4, 50, "bfloat16", "cpu")


def test_a_problem_has_what_the_case_says():
    problem = make(CASE)
    hidden, weight = problem.inputs
    assert hidden.shape == (10, 4)
    assert weight.shape == (50, 4)
    assert hidden.dtype == weight.dtype == torch.bfloat16
    assert [x is hidden for x in problem.leaves] == [True]  # the head is frozen
    assert (problem.labels == IGNORED).sum() == 6
    assert problem.kept == CASE.kept == 4
    assert problem.reference["reference_hidden"].shape == (10, 4)
    assert problem.reference_inputs[1].data_ptr() == weight.data_ptr()  # the head is shared
    assert problem.double().inputs[0].dtype == torch.float64
    assert torch.equal(make(CASE).inputs[0], hidden)


def test_a_reference_of_a_head_that_trains_has_its_own():
    problem = make(replace(CASE, head="trainable"))
    own, reference = problem.inputs[1], problem.reference["reference_weight"]
    assert torch.equal(own, reference)
    assert own.data_ptr() != reference.data_ptr()
    assert not reference.requires_grad
    assert [len(make(replace(CASE, source=s)).reference_inputs) for s in ("hidden", "logits")] == [2, 1]


def test_a_pass_over_logits_is_in_float32():
    for source in ("row sums", "row gradient"):
        problem = make(Case("uniform_kl", source, "-", 0.0, 10, 0, 50, "bfloat16", "cpu"))
        assert problem.inputs[0].dtype == torch.float32
        assert problem.inputs[0].shape == (10, 50)
        assert not problem.reference


def test_steps_return_gradients_or_values():
    def function(problem):
        return ((problem.inputs[0] ** 2).sum(),)

    problem = make(Case("log_prob", "logits", "-", 0.0, 3, 0, 5, "float32", "cpu"))
    assert torch.allclose(step(problem, function)()[0], 2 * problem.inputs[0])
    backward = make(Case("log_prob", "row gradient", "-", 0.0, 3, 0, 5, "float32", "cpu"))
    again = step(backward, function)
    assert torch.equal(again()[0], again()[0])
    forward = make(Case("log_prob", "row sums", "-", 0.0, 3, 0, 5, "float32", "cpu"))
    (value,) = step(forward, function)()
    assert not value.requires_grad


def test_presets():
    shapes = {case.shape for case in PRESETS["issue"].cases("cpu")}
    assert shapes == {"1024 x 512 x 128256"}
    # 4 shapes x 2 numbers of tokens x 5 operations x 2 heads x 2 shares of ignored tokens
    assert len(PRESETS["gpu"].cases("cuda")) == 160
    for preset in PRESETS.values():
        made = preset.cases("cpu")
        assert len({case.slug for case in made}) == len(made)
