"""The plain and the chunked formulations compute what our objectives compute, gradients included."""

import pytest
import torch

from benchmarks import chunked
from benchmarks.chunked import chunked_loss, together
from benchmarks.peers import Unavailable, version
from benchmarks.plain import PLAIN, masked
from benchmarks.step_cases import ROLES, pad
from lightning_unlearn.data.packing import pack
from lightning_unlearn.objectives.answer_preservation import AnswerPreservation
from lightning_unlearn.objectives.dpo import DPO
from lightning_unlearn.objectives.maximize_entropy import MaximizeEntropy
from lightning_unlearn.objectives.npo import NPO
from tests.dense import ROWS, assert_same_gradients, gradients, tiny

OURS = {
    "ME+GD": lambda model, reference: MaximizeEntropy(model, retain="nll"),
    "NPO+KL": lambda model, reference: NPO(model, retain="kl", reference=reference),
    "DPO+GD": lambda model, reference: DPO(model, retain="nll", reference=reference),
    "IDK+AP": lambda model, reference: AnswerPreservation(model),
}


def models(dtype=torch.float64):
    """A model, and a reference that is not the model, so that nothing cancels."""
    return tiny(max_position_embeddings=512, dtype=dtype), tiny(seed=1, max_position_embeddings=512, dtype=dtype)


def expected(objective):
    model, reference = models()
    loss = OURS[objective](model, reference).losses(pack(ROWS))["loss"]
    return float(loss.detach()), gradients(loss, model)


@pytest.mark.parametrize("width", [500, None])
@pytest.mark.parametrize("objective", ROLES)
def test_the_plain_formulation_is_ours(objective, width):
    value, wanted = expected(objective)
    model, reference = models()
    batch = pad({role: ROWS[role] for role in ROLES[objective]}, width)
    loss = PLAIN[objective](model, reference, batch)
    assert float(loss.detach()) == pytest.approx(value, rel=1e-9)
    assert_same_gradients(gradients(loss, model), wanted)
    assert all(p.grad is None for p in reference.parameters())


@pytest.mark.skipif(version("liger-kernel") is None, reason="liger-kernel is not installed")
@pytest.mark.parametrize("objective", ["DPO+GD", "IDK+AP"])
def test_chunked_losses_are_ours(objective, monkeypatch):
    monkeypatch.setattr(chunked, "COMPILED", False)
    value, wanted = expected(objective)
    model, reference = models(torch.float32)  # what they sum in
    batch = pad({role: ROWS[role] for role in ROLES[objective]}, None)
    loss = chunked_loss(objective)(model, reference, batch)
    assert float(loss.detach()) == pytest.approx(value, rel=1e-5)
    found = {name: grad.double() for name, grad in gradients(loss, model).items()}
    assert_same_gradients(found, wanted, tolerance=1e-4)


def test_what_has_no_chunked_loss_says_so(monkeypatch):
    with pytest.raises(Unavailable, match="liger-kernel has no chunked loss of NPO"):
        chunked_loss("NPO+KL")
    monkeypatch.setattr(chunked, "version", lambda package: None)
    with pytest.raises(Unavailable, match="not installed"):
        chunked_loss("DPO+GD")


def test_rows_of_both_lengths_become_one_batch():
    batch = pad({"forget": ROWS["forget"], "forget_idk": ROWS["forget_idk"]}, None)
    both = together(batch["forget_idk"], batch["forget"])
    width = max(role["input_ids"].shape[1] for role in batch.values())
    assert {tuple(x.shape) for x in both.values()} == {(6, width)}
    counts = [int(masked(role)[1].sum()) for role in (*batch.values(), both)]
    assert counts[0] + counts[1] == counts[2]
    assert int(both["attention_mask"].sum()) == sum(int(role["attention_mask"].sum()) for role in batch.values())
