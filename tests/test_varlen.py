"""Attention within packed rows: every kernel, window, cap and head grouping against the softmax written out."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from lightning_unlearn import varlen
from lightning_unlearn.varlen import KERNELS, Lengths, Rules, flex, row_by_row, varlen_attention

LENGTHS = (3, 1, 7)
ROWS = Lengths(LENGTHS, LENGTHS)


def heads(count: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, sum(LENGTHS), 8, dtype=dtype, generator=generator).requires_grad_()


def written_out(q, k, v, rules: Rules, left: int | None = None):
    """Softmax over what a token sees; `left` instead of the window where a kernel counts so."""
    row = torch.repeat_interleave(torch.tensor(LENGTHS))
    age = torch.arange(len(row))[:, None] - torch.arange(len(row))[None]
    before = rules.left if left is None else left
    seen = (row[:, None] == row) & (age >= 0) & ((age <= before) if before >= 0 else age >= 0)
    k, v = (x.repeat_interleave(q.shape[0] // k.shape[0], dim=0) for x in (k, v))
    scores = q @ k.transpose(1, 2) * (rules.scaling or 8**-0.5)
    if rules.softcap:
        scores = rules.softcap * torch.tanh(scores / rules.softcap)
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(0, 1)


ALL_RULES = [
    Rules(scaling, 0.0, window, softcap)
    for scaling in (None, 0.7)
    for window in (None, 1, 3, 7, 50)
    for softcap in (None, 1.5)
]


@pytest.mark.parametrize("rules", ALL_RULES)
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_row_by_row_and_its_gradients(rules, key_heads):
    inputs = heads(4, 0), heads(key_heads, 1), heads(key_heads, 2)
    ours, theirs = varlen_attention(*inputs, LENGTHS, rules), written_out(*inputs, rules)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape, dtype=ours.dtype)
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), inputs) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


PARENTS = (-1, 0, 0)  # the rows of 1 and of 7 tokens continue that of 3


def continued(attend, q, k, v, rules):
    """Each row after its parent, one at a time, of which only its own tokens are kept."""
    first, second, third = (slice(0, 3), slice(3, 4), slice(4, 11))
    parts = []
    for own, tokens in ((first, [first]), (second, [first, second]), (third, [first, third])):
        inputs = (torch.cat([x[:, part] for part in tokens], dim=1) for x in (q, k, v))
        length = sum(part.stop - part.start for part in tokens)
        parts.append(attend(*inputs, Lengths((length,), (length,)), rules)[own.start - own.stop :])
    return torch.cat(parts)


@pytest.mark.parametrize("rules", ALL_RULES)
@pytest.mark.parametrize("kernel", ["row_by_row", "flex"])
def test_rows_that_continue_others(monkeypatch, rules, kernel):
    if kernel == "flex":
        monkeypatch.setattr(varlen, "KERNELS", (((lambda query, rules: True), flex),))
    with torch.no_grad():
        inputs = [heads(count, seed, torch.float32).detach() for seed, count in enumerate((4, 2, 2))]
        ours = varlen_attention(*inputs, LENGTHS, rules, PARENTS)
        torch.testing.assert_close(ours, continued(row_by_row, *inputs, rules), rtol=1e-4, atol=1e-5)


def test_what_flash_attention_is_asked_for_where_rows_continue_others(monkeypatch):
    def flash_attn_varlen_func(q, k, v, starts_q, starts_k, longest_q, longest_k, **options):
        assert (starts_q.tolist(), longest_q) == ([0, 3, 4, 11], 7)
        assert (starts_k.tolist(), longest_k) == ([0, 3, 7, 17], 10)  # the parent's tokens come first
        assert k[:3].equal(k[3:6])
        assert k[:3].equal(k[7:10])
        assert k[6].equal(heads(2, 1).transpose(0, 1)[3])
        return q

    fake = SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)
    monkeypatch.setitem(sys.modules, "flash_attn", fake)
    monkeypatch.setattr(varlen, "KERNELS", (((lambda query, rules: True), varlen._flash_2),))
    varlen_attention(heads(4, 0), heads(2, 1), heads(2, 2), LENGTHS, Rules(), PARENTS)


@pytest.mark.parametrize("rules", ALL_RULES[:10])
def test_flex(rules):
    with torch.no_grad():  # its backward needs a GPU
        inputs = [heads(count, seed, torch.float32).detach() for seed, count in enumerate((4, 2, 2))]
        torch.testing.assert_close(flex(*inputs, ROWS, rules), written_out(*inputs, rules), rtol=1e-4, atol=1e-5)


def test_dropout():
    inputs = heads(1, 0), heads(1, 1), torch.ones(1, sum(LENGTHS), 8, dtype=torch.float64)
    for softcap in (None, 5.0):
        torch.manual_seed(0)
        ours = row_by_row(*inputs, ROWS, Rules(dropout=0.5, softcap=softcap))
        assert not torch.allclose(ours, torch.ones_like(ours))  # each would be 1 if all weights were kept


def fake_flash(calls):
    """flash-attn's varlen function by its documentation: heads after tokens, a window of tokens before and after."""

    def flash_attn_varlen_func(
        q, k, v, starts_q, starts_k, longest_q, longest_k, dropout_p=0.0, softmax_scale=None, causal=False,
        window_size=(-1, -1), softcap=0.0
    ):  # fmt: skip
        assert starts_q.dtype == starts_k.dtype == torch.int32
        assert starts_q.tolist() == starts_k.tolist() == [0, 3, 4, 11]
        assert (longest_q, longest_k, causal) == (7, 7, True)
        assert window_size[1] in (-1, 0)  # nothing after the token: causal says so already
        calls.append(dropout_p)
        rules = Rules(softmax_scale, softcap=softcap or None)
        return written_out(*(x.transpose(0, 1) for x in (q, k, v)), rules, left=window_size[0])

    return SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)


@pytest.mark.parametrize("rules", ALL_RULES)
@pytest.mark.parametrize("version", [2, 3])
def test_what_flash_attention_is_asked_for(monkeypatch, rules, version):
    calls = []
    module = {2: "flash_attn", 3: "flash_attn_interface"}[version]
    monkeypatch.setitem(sys.modules, module, fake_flash(calls))
    attend = {2: varlen._flash_2, 3: varlen._flash_3}[version]
    inputs = heads(4, 0), heads(2, 1), heads(2, 2)
    torch.testing.assert_close(attend(*inputs, ROWS, rules), written_out(*inputs, rules))
    assert calls == [0.0]


def test_what_pytorchs_kernel_is_asked_for(monkeypatch):
    def varlen_attn(q, k, v, starts_q, starts_k, longest_q, longest_k, *, scale, window_size, enable_gqa):
        assert (starts_q.tolist(), longest_k, enable_gqa) == ([0, 3, 4, 11], 7, True)
        assert window_size[1] == 0  # causal
        return written_out(*(x.transpose(0, 1) for x in (q, k, v)), Rules(scale), left=window_size[0])

    monkeypatch.setattr(varlen, "_torch_varlen", lambda: varlen_attn)
    inputs = heads(4, 0), heads(2, 1), heads(2, 2)
    for rules in (Rules(), Rules(scaling=0.7, window=3)):
        torch.testing.assert_close(varlen._torch(*inputs, ROWS, rules), written_out(*inputs, rules))


def test_pytorchs_kernel_is_known_by_its_arguments():
    found = varlen._torch_varlen()
    assert found is None or found.__module__ == "torch.nn.attention.varlen"


class OnGpu:
    """What is asked of a tensor to choose a kernel."""

    is_cuda, device = True, torch.device("cuda", 0)

    def __init__(self, dtype=torch.bfloat16, size=64):
        self.dtype, self.shape = dtype, (4, 11, size)


@pytest.mark.parametrize(
    ("query", "rules", "installed", "capability", "expected"),
    [
        (OnGpu(), Rules(), {"flash_attn", "flash_attn_interface"}, 9, "_flash_3"),
        (OnGpu(), Rules(dropout=0.1), {"flash_attn", "flash_attn_interface"}, 9, "_flash_2"),
        (OnGpu(), Rules(softcap=50.0, window=8), {"flash_attn"}, 8, "_flash_2"),
        (OnGpu(), Rules(), {"flash_attn_interface"}, 8, "_torch"),
        (OnGpu(), Rules(window=8), set(), 9, "_torch"),
        (OnGpu(), Rules(softcap=50.0), set(), 9, "flex"),
        (OnGpu(torch.float32), Rules(), {"flash_attn"}, 9, "flex"),
        (OnGpu(size=512), Rules(), {"flash_attn"}, 9, "flex"),
        (OnGpu(torch.float32), Rules(dropout=0.1), {"flash_attn"}, 9, None),
        (OnGpu(torch.float64), Rules(), {"flash_attn"}, 9, None),
        (torch.zeros(4, 11, 64, dtype=torch.bfloat16), Rules(), {"flash_attn", "flash_attn_interface"}, 9, None),
    ],
)
def test_the_best_kernel_that_serves_is_taken(monkeypatch, query, rules, installed, capability, expected):
    monkeypatch.setattr(varlen, "_installed", lambda name: name in installed)
    monkeypatch.setattr(varlen, "_torch_varlen", lambda: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    names = [attend.__name__ for serves, attend in KERNELS if serves(query, rules)]
    assert (names[0] if names else None) == expected
