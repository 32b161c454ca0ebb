"""The head sharded unevenly over two gloo processes gives what one process gives."""

import importlib.util
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from unlearn_kernels import linear_token_statistics
from unlearn_kernels.statistics import FIELDS, NOT_DIFFERENTIABLE

N, D, V, FIRST = 7, 5, 23, 14
CASES = [
    (torch.float64, {}),
    (torch.float64, {"workspace_bytes": 600, "softcap": 2.0, "logit_scale": 0.5, "temperature": 1.3}),
    (torch.float32, {}),
]
if importlib.util.find_spec("triton") and not torch.cuda.is_available():  # in the interpreter, on CPU tensors
    CASES.append((torch.float32, {"backend": "triton", "workspace_bytes": 600, "softcap": 2.0}))


def results(dtype, options, rows=slice(None), group=None):
    """Fields, and gradients of hidden states, head and bias, with this shard of the head."""
    torch.manual_seed(0)
    full = {name: torch.randn(*shape, dtype=dtype) for name, shape in (("h", (N, D)), ("w", (V, D)), ("b", (V,)))}
    reference = torch.randn(N, D, dtype=dtype)
    labels = torch.tensor([0, 13, 14, 22, -100, 5, 20])
    upstream = {name: torch.randn(N, dtype=dtype) for name in FIELDS if name not in NOT_DIFFERENTIABLE}
    leaves = [x.clone().requires_grad_() for x in (full["h"], full["w"][rows], full["b"][rows])]
    record = linear_token_statistics(
        leaves[0],
        leaves[1],
        labels,
        bias=leaves[2],
        statistics=FIELDS,
        reference_hidden=reference,
        vocab_group=group,
        **options,
    )
    loss = sum((getattr(record, name) * g).sum() for name, g in upstream.items())
    return list(record), list(torch.autograd.grad(loss, leaves))


def work(rank, port, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    rows = slice(0, FIRST) if rank == 0 else slice(FIRST, V)
    found = [results(dtype, options, rows, dist.group.WORLD) for dtype, options in CASES]
    message = ""
    try:
        linear_token_statistics(
            torch.zeros(1, D), torch.zeros(rows.stop - rows.start, D), torch.tensor([V]), vocab_group=dist.group.WORLD
        )
    except ValueError as error:
        message = str(error)
    torch.save((found, message), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_give_what_one_gives(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case, (dtype, options) in enumerate(CASES):
        tolerance = 1e-10 if dtype == torch.float64 else 2e-5
        values, (hidden, weight, bias) = results(dtype, options)
        (first, gradients), (second, other_gradients) = (rank[0][case] for rank in ranks)
        for name, expected, a, b in zip(FIELDS, values, first, second, strict=True):
            assert torch.equal(a, b), name  # bit-identical on every rank
            torch.testing.assert_close(a, expected, rtol=tolerance, atol=tolerance)
        for mine in (gradients, other_gradients):
            torch.testing.assert_close(mine[0], hidden, rtol=tolerance, atol=tolerance)
        for k, expected in ((1, weight), (2, bias)):
            joined = torch.cat([gradients[k], other_gradients[k]])
            torch.testing.assert_close(joined, expected, rtol=tolerance, atol=tolerance)
    assert all("[0, 23), got 23" in rank[1] for rank in ranks)  # labels are global ids
