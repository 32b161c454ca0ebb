"""Errors of the token statistics where rounding bites, as a Markdown table: `python -m benchmarks.numerics`.

Each line compares with float64: another way of computing the same quantity that looks right and is not (or that was
considered), plain PyTorch in the dtype of the inputs, and `unlearn_kernels`. An error is the norm of what is wrong over
the norm of what is true, so 1 is as good as answering 0.

Shapes: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearn_kernels import TokenStatistics, linear_token_statistics, token_statistics
from unlearn_kernels.reference import dense_linear_token_statistics, dense_token_statistics

N, D, V = 64, 64, 32768
TILE, THRESHOLD = 64, 2**-12  # tokens and columns of a tile, and the softmax below which gradient filtering skips it
SLICE = 512  # columns whose products are added up one after another


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        quantity: what is computed.
        inputs: from what, dtype included.
        other_way: how else it might be computed.
        other: relative error of that.
        pytorch: relative error of plain PyTorch in the inputs' dtype.
        ours: relative error of `unlearn_kernels`.
    """

    quantity: str
    inputs: str
    other_way: str
    other: float
    pytorch: float
    ours: float


def error(x: Tensor, truth: Tensor) -> float:
    """Norm of x - truth over the norm of truth."""
    return ((x.double() - truth).norm() / truth.norm()).item()


def random(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers, float64, the same on every call and device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu").to(torch.get_default_device())


def random_labels() -> Tensor:
    """One label a token, the same on every call and device."""
    generator = torch.Generator("cpu").manual_seed(1)
    return torch.randint(V, (N,), generator=generator, device="cpu").to(torch.get_default_device())


def gradient(
    function: Callable[..., TokenStatistics], x: Tensor, *others: Tensor, field: str, **options: object
) -> Tensor:
    """Gradient of a field's sum with respect to `x`: logits, or hidden states with a head among `others`."""
    leaf = x.clone().requires_grad_()
    record = function(leaf, *others, random_labels(), statistics=(field,), **options)
    return torch.autograd.grad(getattr(record, field).sum(), leaf)[0]


def near_uniform(field: str, deviation: float) -> Line:
    """Gradient of the logits where p is nearly uniform, from bfloat16 logits."""
    z = (deviation * random(N, V, seed=0)).bfloat16()
    log_p = z.float().log_softmax(1)
    if field == "entropy":
        way, entropy = "H rounded to bfloat16", -(log_p.exp() * log_p).sum(1, keepdim=True)
        other = -log_p.exp() * (log_p + entropy.bfloat16())
    else:
        way, other = "p rounded to bfloat16", log_p.exp().bfloat16() - 1 / V
    truth = gradient(dense_token_statistics, z.double(), field=field)
    dense = gradient(dense_token_statistics, z, field=field)
    ours = gradient(token_statistics, z, field=field)
    inputs = f"bfloat16 logits of deviation {deviation}"
    return Line(f"d_logits of `{field}`", inputs, way, error(other, truth), error(dense, truth), error(ours, truth))


def small_kl(distance: float, dtype: torch.dtype, delta_product: bool = False) -> Line:
    """KL(q || p) of two close models with the same head, whose logits have the deviation of a language model's.

    Args:
        distance: deviation of z - r.
        dtype: of hidden states and head.
        delta_product: form z as r + (x - x_ref) W^T in bfloat16, which keeps what the models differ by, rather than z
            and r apart.
    """
    hidden, weight = (4 * random(N, D, seed=0)).to(dtype), (random(V, D, seed=2) / D**0.5).to(dtype)
    reference = (hidden.double() + distance * random(N, D, seed=3)).to(dtype)
    z, r = ((x.float() @ weight.float().t()).bfloat16() for x in (hidden, reference))
    if delta_product:
        delta = (hidden.float() - reference.float()).bfloat16().float() @ weight.float().t()
        z = r.float() + delta.bfloat16()
    way = "bfloat16 r + (x - x_ref) Wᵀ" if delta_product else "bfloat16 logits"
    names = {"statistics": ("reference_kl",)}
    other = dense_token_statistics(z.float(), random_labels(), reference_logits=r.float(), **names).reference_kl

    def kl(function: Callable[..., TokenStatistics], dtype: torch.dtype) -> Tensor:
        inputs = (hidden.to(dtype), weight.to(dtype), random_labels())
        return function(*inputs, reference_hidden=reference.to(dtype), **names).reference_kl

    truth = kl(dense_linear_token_statistics, torch.float64)
    dense, ours = (kl(function, dtype) for function in (dense_linear_token_statistics, linear_token_statistics))
    inputs = f"{_name(dtype)} hidden states, KL {truth.mean():.0e}"
    return Line("`reference_kl`", inputs, way, error(other, truth), error(dense, truth), error(ours, truth))


def close_distributions(distance: float) -> Line:
    """p - q, the gradient of the KL, from float32 logits whose models are close."""
    z = random(N, V, seed=0).float()
    r = (z.double() + distance * random(N, V, seed=1)).float()
    other = z.softmax(1) - r.softmax(1)
    truth = gradient(dense_token_statistics, z.double(), field="reference_kl", reference_logits=r.double())
    dense = gradient(dense_token_statistics, z, field="reference_kl", reference_logits=r)
    ours = gradient(token_statistics, z, field="reference_kl", reference_logits=r)
    errors = (error(x, truth) for x in (other, dense, ours))
    return Line(
        "d_logits of `reference_kl`", f"float32 logits, z - r of {distance:.0e}", "softmax(z) - softmax(r)", *errors
    )


def memorised(rest: float) -> Tensor:
    """Float64 logits that give the label all but `rest` of the probability."""
    z, labels = random(N, V, seed=0), random_labels().unsqueeze(1)
    others = z.scatter(1, labels, float("-inf")).logsumexp(1, keepdim=True)
    return z.scatter(1, labels, others + math.log((1 - rest) / rest))


def complement(rest: float) -> Line:
    """1 - p_y, the gradient of log_prob in the label's column, from float32 logits."""
    z, labels = memorised(rest).float(), random_labels().unsqueeze(1)

    def at_label(function: Callable[..., TokenStatistics], z: Tensor) -> Tensor:
        return gradient(function, z, field="log_prob").gather(1, labels)

    truth = dense_token_statistics(z.double(), random_labels(), statistics=("log_complement",)).log_complement.exp()
    other = 1 - z.log_softmax(1).gather(1, labels).exp()
    errors = (
        error(x.squeeze(1), truth) for x in (other, at_label(dense_token_statistics, z), at_label(token_statistics, z))
    )
    return Line("1 - p_y", f"float32 logits, 1 - p_y = {rest:.0e}", "1 - exp(log_prob)", *errors)


def memorised_hidden(rest: float) -> Line:
    """Gradient of hidden states of log_prob with bfloat16 operands of the product, as tensor cores take them."""
    z, weight = memorised(rest).float(), random(V, D, seed=2).bfloat16().float()
    truth = gradient(dense_token_statistics, z.double(), field="log_prob") @ weight.double()
    other = weight[random_labels()] - z.softmax(1).bfloat16().float() @ weight
    dense = gradient(dense_token_statistics, z.bfloat16(), field="log_prob").float() @ weight
    ours = gradient(token_statistics, z, field="log_prob").bfloat16().float() @ weight
    inputs = f"bfloat16 operands, 1 - p_y = {rest:.0e}"
    errors = (error(x, truth) for x in (other, dense, ours))
    return Line("d_hidden of `log_prob`", inputs, "w_y - Σ p_v w_v", *errors)


def filtered(deviation: float) -> Line:
    """Probability mass that the gradient of log_partition, which is p, reaches."""
    z = (deviation * random(N, V, seed=0)).float()
    tiles = z.softmax(1).view(N // TILE, TILE, V // TILE, TILE)
    other = tiles * (tiles.amax((1, 3), keepdim=True) >= THRESHOLD)
    mass = (
        other.reshape(N, V),
        gradient(dense_token_statistics, z, field="log_partition"),
        gradient(token_statistics, z, field="log_partition"),
    )
    errors = (error(x.double().sum(1), torch.ones(N).double()) for x in mass)
    way = f"tiles whose p stays below {THRESHOLD:.1e} skipped"
    return Line("mass in d_logits of `log_partition`", f"float32 logits of deviation {deviation}", way, *errors)


def accumulation(field: str) -> Line:
    """Gradient of hidden states summed over slices of the vocabulary, from bfloat16 hidden states and head."""
    hidden, weight = random(N, D, seed=0).bfloat16(), (random(V, D, seed=2) / D**0.5).bfloat16()
    truth = gradient(dense_linear_token_statistics, hidden.double(), weight.double(), field=field)
    d_logits = gradient(dense_token_statistics, hidden.double() @ weight.double().t(), field=field).float()
    other = torch.zeros(N, D, dtype=torch.bfloat16)
    for columns, rows in zip(d_logits.split(SLICE, 1), weight.split(SLICE), strict=True):
        other += (columns @ rows.float()).bfloat16()
    dense = gradient(dense_linear_token_statistics, hidden, weight, field=field)
    ours = gradient(linear_token_statistics, hidden, weight, field=field, workspace_bytes=16 * N * SLICE)
    errors = (error(x, truth) for x in (other, dense, ours))
    way = f"slices of {SLICE} columns added in bfloat16"
    return Line(f"d_hidden of `{field}`", "bfloat16 hidden states", way, *errors)


def lines() -> Iterator[Line]:
    """Every line of the table."""
    for field in ("entropy", "uniform_kl"):
        for deviation in (0.1, 0.01):
            yield near_uniform(field, deviation)
    yield small_kl(0.28, torch.bfloat16)
    yield small_kl(0.028, torch.bfloat16)
    yield small_kl(1.5e-4, torch.float32)
    yield small_kl(0.28, torch.bfloat16, delta_product=True)
    yield small_kl(0.028, torch.bfloat16, delta_product=True)
    for distance in (1e-3, 1e-5):
        yield close_distributions(distance)
    for rest in (1e-1, 1e-3, 1e-6, 1e-9):
        yield complement(rest)
    for rest in (1e-1, 1e-2, 1e-3):
        yield memorised_hidden(rest)
    for deviation in (0.01, 0.5):
        yield filtered(deviation)
    for field in ("log_partition", "entropy"):
        yield accumulation(field)


HEADER = "| quantity | inputs | another way | its error | PyTorch | unlearn_kernels |\n|---|---|---|---|---|---|"


def table_row(line: Line) -> str:
    """A line in Markdown."""
    errors = " | ".join(f"{x:.1e}" if x else "0" for x in (line.other, line.pytorch, line.ours))
    return f"| {line.quantity} | {line.inputs} | {line.other_way} | {errors} |"


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.numerics", description="Errors of the token statistics where rounding bites."
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default %(default)s")
    device = parser.parse_args(argv).device
    print(f"N {N}  D {D}  V {V}  {device}  torch {torch.__version__}; errors relative to float64\n\n{HEADER}")
    with torch.device(device):
        for line in lines():
            print(table_row(line), flush=True)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
