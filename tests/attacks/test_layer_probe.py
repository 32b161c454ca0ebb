from __future__ import annotations

import re

import pytest
import torch

from lightning_unlearn.attacks.layer_probe import (
    LayerProbe,
    candidates,
    encoded,
    last_states,
    ridge_directions,
    true_above_wrong,
)
from lightning_unlearn.data.records import Record
from lightning_unlearn.evaluation.likelihood import row_likelihoods
from lightning_unlearn.models import load_causal_lm
from tests.attacks.exams import FORGET, RETAIN, exam, record, unchanged

KEY = "forget/true_above_wrong"


def test_true_above_wrong_by_hand():
    scores = torch.tensor([0.5, 0.1, 0.9, 0.5, 1.0, 2.0])
    # first row: 0.5 above 0.1, below 0.9, equal to 0.5 -> 1.5 / 3; second: 1.0 below 2.0 -> 0
    assert true_above_wrong(scores, [4, 2]) == pytest.approx([0.5, 0.0])


def test_the_direction_is_that_of_ridge_regression():
    draws = torch.Generator().manual_seed(0)
    states = torch.randn(40, 3, generator=draws, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1])
    labels = torch.stack([states[:, 1], states[:, 2]], 1) + 5.0
    found = ridge_directions(states, labels, 1e-9)
    expected = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert found[1, 0] > ridge_directions(states, labels, 1.0)[1, 0] > 0


def test_a_constant_dimension_does_no_harm():
    states = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    assert ridge_directions(states, states[:, 1:], 1.0).isfinite().all()


def test_states_are_those_after_the_last_word(tiny_model_dir):
    model = load_causal_lm(tiny_model_dir()).train()
    rows = exam(tiny_model_dir()).encoder.rows(FORGET[:3])
    with unchanged(model):
        found = last_states(model, rows, [0, 1], budget=len(rows[0].input_ids) + 1)
    for i, row in enumerate(rows):
        every = model.eval()(torch.tensor(row.input_ids)[None], output_hidden_states=True).hidden_states
        torch.testing.assert_close(found[0][i], every[1][0, -1].double(), atol=1e-4, rtol=1e-3)
        normed = model.model.norm(found[1][i].float())  # transformers gives the last layer's after the norm
        torch.testing.assert_close(normed, every[2][0, -1], atol=1e-4, rtol=1e-3)


def test_candidates_have_the_form_of_the_paraphrase():
    plain = Record("Who?", "Ana.", perturbed_answers=("Bo.",))
    assert candidates(FORGET[0]) == ["Home of A: Bern.", "Home of A: Lima.", "Home of A: Oslo."]
    assert candidates(plain) == ["Ana.", "Bo."]


def test_a_layer_that_knows_is_found_and_the_control_does_not_know(tiny_model_dir, monkeypatch):
    """States in which the true answer stands out along one axis, in retain and forget rows alike."""
    import lightning_unlearn.attacks.layer_probe as module

    draws = torch.Generator().manual_seed(0)

    def states(model, rows, layers, budget):
        noise = torch.randn(len(rows), 8, generator=draws, dtype=torch.float64)
        known = noise.clone()
        known[::3, 2] += 10.0  # of three candidates the first is true
        return {layers[0]: noise, layers[1]: known}

    monkeypatch.setattr(module, "last_states", states)
    asked, model = exam(tiny_model_dir()), load_causal_lm(tiny_model_dir())
    points = {x: scores() for x, scores in LayerProbe().points(model, asked)}
    assert list(points) == ["output", 0, 1]
    assert points[1][KEY] == 1.0
    assert points[0][KEY] < 0.85
    assert 0.2 < points[1]["forget/control"] < 0.8


def test_the_output_ranks_by_likelihood_per_token(tiny_model_dir):
    asked, model = exam(tiny_model_dir()), load_causal_lm(tiny_model_dir())
    _, scores = next(iter(LayerProbe().points(model, asked)))
    shares = []
    for one in FORGET:
        scored = row_likelihoods(model, [asked.encoder.row(one, answer=text) for text in candidates(one)])
        likely = [-row.nll / row.tokens for row in scored]
        shares.append(sum(likely[0] > wrong for wrong in likely[1:]) / 2)
    assert scores()[KEY] == pytest.approx(sum(shares) / len(shares))


def test_rows_without_wrong_answers(tiny_model_dir):
    asked = exam(tiny_model_dir(), retain=[Record("Who?", "Ana.")])
    with pytest.raises(ValueError, match="data must have perturbed answers of retain rows, got none"):
        LayerProbe().check(asked)
    plain = Record("Who?", "Ana.")
    some = exam(tiny_model_dir(), forget=[FORGET[0], plain, *FORGET[1:]], retain=[*RETAIN, Record("Whom?", "Bo.")])
    LayerProbe().check(some)
    model = load_causal_lm(tiny_model_dir())
    points = {x: scores() for x, scores in LayerProbe(layers=[0]).points(model, some)}
    without = points["output"].pop("failed")
    why = "it has no wrong answers"
    assert without == [{"set": "forget", "index": 1, "why": why}, {"set": "retain", "index": 6, "why": why}]
    assert points[0].pop("failed") == without
    whole = {x: scores() for x, scores in LayerProbe(layers=[0]).points(model, exam(tiny_model_dir()))}
    assert points["output"] == pytest.approx(whole["output"])
    assert points[0] == pytest.approx(whole[0])


def test_rows_too_long_for_the_model(tiny_model_dir):
    long = record("A", "Bern", perturbed_answers=("No. " * 60,))
    model = load_causal_lm(tiny_model_dir(max_position_embeddings=100))
    found = encoded(model, exam(tiny_model_dir()), "forget", 4, long)
    assert (found["set"], found["index"], "rows" in found) == ("forget", 4, False)
    assert re.fullmatch(r"it has \d+ tokens with an answer, the model takes 100", found["failed"])
    with pytest.raises(ValueError, match="no forget row could be asked: it has"):
        next(iter(LayerProbe().points(model, exam(tiny_model_dir(), forget=[long]))))


def test_a_model_of_nan_is_no_low_score(tiny_model_dir):
    model = load_causal_lm(tiny_model_dir())
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    for _, scores in LayerProbe().points(model, exam(tiny_model_dir())):
        with pytest.raises((ValueError, torch.linalg.LinAlgError)):
            scores()


def test_layers_that_the_model_lacks(tiny_model_dir):
    asked = exam(tiny_model_dir(), layers=2)
    for layer in (99, 2, -3):
        with pytest.raises(ValueError, match=rf"layers must be in \[-2, 2\), got \[0, {layer}\]"):
            LayerProbe(layers=[0, layer]).check(asked)
    LayerProbe(layers=[1, -2]).check(asked)
    LayerProbe(layers=[99]).check(exam(tiny_model_dir()))  # how many there are is not known


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": 0.0}, r"ridge must be above 0 and finite, got 0\.0"),
        ({"ridge": float("nan")}, "ridge must be above 0 and finite, got nan"),
        ({"layers": []}, r"layers must hold a number, got \[\]"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        LayerProbe(**options)
