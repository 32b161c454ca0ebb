import pytest
import torch

from lightning_unlearn.data.packing import pack
from lightning_unlearn.forward import hidden_states, token_statistics
from lightning_unlearn.head import Head, output_head
from lightning_unlearn.reference import Frozen
from lightning_unlearn.role_statistics import role_statistics
from tests.dense import ROWS, tiny

BATCH = pack({role: ROWS[role] for role in ("forget", "retain", "forget_idk")})
WANTED = {
    "forget": ("log_prob", "reference_log_prob"),
    "retain": ("reference_kl", "entropy"),
    "forget_idk": ("uniform_kl",),
}


@pytest.mark.parametrize("frozen", [True, False])
def test_each_role_has_what_it_would_have_alone(frozen):
    model, other = tiny(), tiny(seed=1)
    model.lm_head.weight.requires_grad_(not frozen)
    reference = Frozen(other)
    found = role_statistics(output_head(model), hidden_states(model, BATCH), BATCH, WANTED, reference)
    assert found.keys() == WANTED.keys()
    for role, fields in WANTED.items():
        alone = BATCH.select([role])
        extra = {"reference_hidden": reference.hidden_states(alone), "reference": reference.head()}
        expected = token_statistics(model, alone, fields, **({} if role == "forget_idk" else extra))
        for field in fields:
            torch.testing.assert_close(getattr(found[role], field), getattr(expected, field), rtol=1e-9, atol=1e-9)


def test_a_head_that_trains_is_multiplied_once_for_roles_alike(monkeypatch):
    calls = []
    whole = Head.statistics

    def counted(self, hidden, targets, fields, **options):
        calls.append((len(targets), "reference" in options))
        return whole(self, hidden, targets, fields, **options)

    monkeypatch.setattr(Head, "statistics", counted)
    model = tiny()
    role_statistics(output_head(model), hidden_states(model, BATCH), BATCH, WANTED, Frozen(tiny(seed=1)))
    sizes = {role: len(BATCH.targets[BATCH.tokens(role)]) for role in WANTED}
    assert calls == [(sizes["forget"] + sizes["retain"], True), (sizes["forget_idk"], False)]
    calls.clear()
    model.lm_head.weight.requires_grad_(False)
    role_statistics(output_head(model), hidden_states(model, BATCH), BATCH, WANTED, Frozen(tiny(seed=1)))
    assert [size for size, _ in calls] == list(sizes.values())
