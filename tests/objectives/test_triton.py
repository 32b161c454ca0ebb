"""Every objective trains on the Triton backend as it does on PyTorch's, to float32 rounding."""

import pytest
import torch

from tests.dense import assert_same_gradients, tiny
from tests.objectives.test_steps import NAMES, OBJECTIVES, loader
from unlearn_kernels import linear_token_statistics

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # on a CPU in Triton's interpreter


@pytest.mark.parametrize(("cls", "options"), OBJECTIVES, ids=NAMES)
def test_a_training_step_is_pytorchs(cls, options, monkeypatch):
    batch = next(iter(loader(batch_size=3))).to(DEVICE)
    found = {}
    for backend in ("torch", "triton"):
        calls = []

        def counted(*args, backend=backend, calls=calls, **kwargs):
            calls.append(backend)
            return linear_token_statistics(*args, **kwargs, backend=backend)

        monkeypatch.setattr("lightning_unlearn.objectives.base.linear_token_statistics", counted)
        model = tiny("gemma2", dtype=torch.float32, final_logit_softcapping=3.0).to(DEVICE)  # a soft cap on the logits
        objective = cls(model, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(2):  # the second step sees what the first changed, and the reference stays behind
            optimizer.zero_grad()
            losses = objective.losses(batch)
            (2 * losses["loss"]).backward()
            gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            optimizer.step()
        assert calls
        found[backend] = losses["loss"].detach(), gradients, {k: x.clone() for k, x in model.state_dict().items()}
    (loss, gradients, weights), (expected, expected_gradients, expected_weights) = found["triton"], found["torch"]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert_same_gradients(gradients, expected_gradients, tolerance=1e-4)
    assert_same_gradients(weights, expected_weights, tolerance=1e-5)
