"""The implementations in the table, and which operations each serves.

A peer that computes one scalar has it turned into the mean of our field, a change of sign or of a constant, so that
gradients can be compared. Each runs as its project ships it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata

import torch
from torch import Tensor

from benchmarks.cases import IGNORED, OPERATIONS, SOURCES, Function, Problem
from unlearn_kernels import linear_token_statistics, token_statistics
from unlearn_kernels.reference import (
    DEFINITIONS,
    Dense,
    dense_linear_token_statistics,
    dense_logits,
    dense_token_statistics,
)
from unlearn_kernels.statistics import TokenStatistics

OURS = "unlearn_kernels"


class Unavailable(Exception):
    """Why an implementation has no numbers in a case."""


@dataclass(frozen=True)
class Implementation:
    """A way to compute some of the operations.

    Attributes:
        name: what the table calls it.
        package: distribution that it comes from, if not this repository or PyTorch.
        serves: (source, operation) to a function.
        in_place: whether it overwrites logits that it is given, and so needs its own.
        variant: of another implementation, so that a case that it does not serve needs no row.
    """

    name: str
    package: str | None
    serves: Mapping[tuple[str, str], Function]
    in_place: bool = False
    variant: bool = False

    def function(self, problem: Problem) -> Function:
        """What serves a problem.

        Raises:
            Unavailable: nothing does, or the package is not installed.
        """
        case = problem.case
        if (case.source, case.operation) not in self.serves:
            raise Unavailable(f"offers no {case.operation} from {case.source}")
        if self.package and version(self.package) is None:
            raise Unavailable("not installed")
        return self.serves[case.source, case.operation]


def version(package: str) -> str | None:
    """Installed version of a distribution, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def reason(error: BaseException) -> str:
    """An exception in a few words.

    >>> reason(ModuleNotFoundError("No module named 'cutlass'"))
    "No module named 'cutlass'"
    """
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    if not isinstance(error, (Unavailable, ImportError)):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 90 else text[:89] + "…"


def ours(problem: Problem) -> tuple[Tensor, ...]:
    function = linear_token_statistics if problem.case.source == "hidden" else token_statistics
    return problem.means(function(*problem.inputs, problem.labels, problem.case.fields, **problem.reference))


def pytorch(problem: Problem) -> tuple[Tensor, ...]:
    """The dense definitions, on float32 logits (float64 where the inputs are)."""
    options = {"statistics": problem.case.fields}
    if problem.case.source == "hidden":
        record = dense_linear_token_statistics(*problem.inputs, problem.labels, **options, **problem.reference)
    else:
        reference = {name: _wide(x) for name, x in problem.reference.items()}
        record = dense_token_statistics(_wide(problem.inputs[0]), problem.labels, **options, **reference)
    return problem.means(record)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


# `functools.cached_property` holds a lock that torch.compile cannot trace; what is common it finds itself.
_TraceableDense = type(
    "_TraceableDense",
    (Dense,),
    {name: property(x.func) for name, x in vars(Dense).items() if isinstance(x, cached_property)},
)


def _traceable(
    inputs: tuple[Tensor, ...], labels: Tensor, reference: tuple[Tensor, ...], fields: tuple[str, ...]
) -> dict[str, Tensor]:
    if len(inputs) == 2:
        logits = dense_logits(*inputs)
        reference = (dense_logits(*reference),) if reference else ()
    else:
        logits, reference = _wide(inputs[0]), tuple(_wide(x) for x in reference)
    keep = labels != IGNORED
    dense = _TraceableDense(logits, labels.where(keep, 0), *reference)
    return {name: DEFINITIONS[name](dense).where(keep, 0) for name in fields}


@cache
def _compiled() -> Callable[..., dict[str, Tensor]]:
    torch._dynamo.config.recompile_limit = 64  # one for each set of fields and of inputs that need a gradient
    return torch.compile(_traceable, dynamic=True, fullgraph=True)


def compiled(problem: Problem) -> tuple[Tensor, ...]:
    """`torch.compile` of the dense definitions, for all shapes at once."""
    record = _compiled()(problem.inputs, problem.labels, problem.reference_inputs, problem.case.fields)
    return problem.means(TokenStatistics(**record))


def _on_gpu(problem: Problem) -> None:
    if problem.case.device != "cuda":
        raise Unavailable("needs a GPU")


def _log_prob(cross_entropy: Function) -> Function:
    return lambda problem: (-cross_entropy(problem)[0],)


def _uniform_kl(smoothed_cross_entropy: Function) -> Function:
    """KL(U || p) is the cross entropy of the uniform distribution, less log V."""
    return lambda problem: (smoothed_cross_entropy(problem)[0] - math.log(problem.case.vocabulary),)


def _liger(label_smoothing: float) -> Function:
    def cross_entropy(problem: Problem) -> tuple[Tensor, ...]:
        _on_gpu(problem)
        from liger_kernel.transformers.functional import liger_cross_entropy, liger_fused_linear_cross_entropy

        function = liger_fused_linear_cross_entropy if problem.case.source == "hidden" else liger_cross_entropy
        return (function(*problem.inputs, problem.labels, label_smoothing=label_smoothing),)

    return cross_entropy


def liger_log_prob_entropy(problem: Problem) -> tuple[Tensor, ...]:
    """Their scaled cross entropy: kernels on Hopper, PyTorch on 512 tokens at a time elsewhere."""
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction

    nll, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(
        *problem.inputs, problem.labels, 1.0, IGNORED, 1, True
    )
    return -nll.sum() / problem.kept, entropy.sum() / problem.kept


def liger_reference_kl(problem: Problem) -> tuple[Tensor, ...]:
    """Their fused Jensen-Shannon divergence, which at beta = 0 is KL(q || p)."""
    _on_gpu(problem)
    from liger_kernel.transformers.functional import liger_fused_linear_jsd

    hidden, weight = problem.inputs
    return (liger_fused_linear_jsd(hidden, weight, *problem.reference_inputs, problem.labels, jsd_beta=0.0),)


def liger_chunked_reference_kl(problem: Problem) -> tuple[Tensor, ...]:
    """The same from their chunked losses, which torch.compile makes."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    hidden, weight = problem.inputs
    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0)
    return (loss(hidden, weight, *problem.reference_inputs, problem.labels),)


def _cut_cross_entropy(on_gpu: bool, **options: object) -> Function:
    def cross_entropy(problem: Problem) -> tuple[Tensor, ...]:
        if on_gpu:
            _on_gpu(problem)
        from cut_cross_entropy import linear_cross_entropy

        return (linear_cross_entropy(*problem.inputs, problem.labels, **options),)

    return _log_prob(cross_entropy)


def quack_cross_entropy(problem: Problem) -> tuple[Tensor, ...]:
    """Their chunked linear cross entropy, in the chunks that it takes by default, or the one from logits."""
    _on_gpu(problem)
    if problem.case.source == "hidden":
        from quack.linear_cross_entropy import chunked_linear_cross_entropy as function
    else:
        from quack.cross_entropy import cross_entropy

        def function(logits: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy(logits, labels, reduction="mean")

    return (function(*problem.inputs, problem.labels),)


def _all(function: Function, sources: tuple[str, ...] = SOURCES) -> dict[tuple[str, str], Function]:
    return {(source, operation): function for source in sources for operation in OPERATIONS}


_LIGER: dict[tuple[str, str], Function] = {
    **{(source, "log_prob"): _log_prob(_liger(0.0)) for source in ("hidden", "logits")},
    **{(source, "uniform_kl"): _uniform_kl(_liger(1.0)) for source in ("hidden", "logits")},
    ("hidden", "log_prob+entropy"): liger_log_prob_entropy,
    ("hidden", "reference_kl"): liger_reference_kl,
}
_CCE, _LINEAR_LOG_PROB = "cut-cross-entropy", ("hidden", "log_prob")
IMPLEMENTATIONS: dict[str, Implementation] = {
    implementation.name: implementation
    for implementation in (
        Implementation(OURS, None, _all(ours)),
        Implementation("pytorch", None, _all(pytorch)),
        Implementation("torch.compile", None, _all(compiled, ("hidden", "logits"))),
        Implementation("liger-kernel", "liger-kernel", _LIGER, in_place=True),
        Implementation(
            "liger-kernel chunked",
            "liger-kernel",
            {("hidden", "reference_kl"): liger_chunked_reference_kl},
            variant=True,
        ),
        Implementation(_CCE, _CCE, {_LINEAR_LOG_PROB: _cut_cross_entropy(True)}),
        Implementation(
            f"{_CCE} unfiltered", _CCE, {_LINEAR_LOG_PROB: _cut_cross_entropy(True, filter_eps=None)}, variant=True
        ),
        Implementation(
            f"{_CCE} compile", _CCE, {_LINEAR_LOG_PROB: _cut_cross_entropy(False, impl="torch_compile")}, variant=True
        ),
        Implementation(
            "quack-kernels",
            "quack-kernels",
            {(source, "log_prob"): _log_prob(quack_cross_entropy) for source in ("hidden", "logits")},
        ),
    )
}
PACKAGES = tuple(dict.fromkeys(x.package for x in IMPLEMENTATIONS.values() if x.package))


def candidates(problem: Problem, names: tuple[str, ...]) -> list[Implementation]:
    """The implementations that have a row for a problem."""
    case = problem.case
    chosen = [IMPLEMENTATIONS[name] for name in names]
    silent = case.source.startswith("row ")  # nobody else offers a pass on its own
    return [x for x in chosen if not (x.variant or silent) or (case.source, case.operation) in x.serves]
