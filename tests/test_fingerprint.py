"""The mark of a model's weights; that of sharded models is in `tests/evaluation/test_shared.py`."""

import torch
from torch import nn

from lightning_unlearn.fingerprint import fingerprint
from tests.dense import tiny


def test_it_tells_weights_apart():
    model = tiny()
    mark = fingerprint(model)
    assert fingerprint(tiny()) == mark
    assert fingerprint(tiny(seed=1)) != mark
    for parameter in model.parameters():
        last = (-1,) * parameter.ndim
        before = parameter[last].item()
        with torch.no_grad():
            parameter[last] = before + 1e-9
            assert fingerprint(model) != mark
            parameter[last] = before
        assert fingerprint(model) == mark


def test_any_parameter_has_one():
    module = nn.ParameterList([torch.zeros(0), torch.tensor(1.5), torch.zeros(2, 3, dtype=torch.bfloat16)])
    assert fingerprint(module) == fingerprint(module)
    module[1].data = torch.tensor(2.0)
    assert fingerprint(module) != fingerprint(nn.ParameterList([torch.zeros(0), torch.tensor(1.5), torch.zeros(2, 3)]))
