"""What is measured: operations, shapes, and the inputs of a case, which are the same for every implementation.

Shapes: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from unlearn_kernels.statistics import FIELDS, NEED_REFERENCE, NOT_DIFFERENTIABLE, TokenStatistics

OPERATIONS: dict[str, tuple[str, ...]] = {
    "log_prob": ("log_prob",),
    "log_prob+entropy": ("log_prob", "entropy"),
    "uniform_kl": ("uniform_kl",),
    "reference_kl": ("reference_kl",),
    "all": FIELDS,
}
HEADS = ("trainable", "frozen")
LOGITS = ("logits", "row sums", "row gradient")  # sources that start from logits
SOURCES = ("hidden", *LOGITS)
DTYPES = ("float32", "bfloat16", "float16")
IGNORED = -100


@dataclass(frozen=True)
class Case:
    """An operation on one shape.

    Attributes:
        operation: name among `OPERATIONS`.
        source: "hidden" (value and gradients from hidden states and a head), "logits" (the same from logits that
            exist), or the passes over float32 logits that "hidden" makes, on their own: "row sums", "row gradient".
        head: "trainable", "frozen", or "-" where there is none.
        ignored: share of ignored tokens.
        tokens: N.
        hidden: D; 0 for cases from logits.
        vocabulary: V.
        dtype: of hidden states, head and logits.
        device: "cuda" or "cpu".
    """

    operation: str
    source: str
    head: str
    ignored: float
    tokens: int
    hidden: int
    vocabulary: int
    dtype: str
    device: str

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of `TokenStatistics` that are asked for."""
        return OPERATIONS[self.operation]

    @property
    def differentiable(self) -> tuple[str, ...]:
        """Those of them whose mean is part of the loss."""
        return tuple(name for name in self.fields if name not in NOT_DIFFERENTIABLE)

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen model's hidden states or logits are read."""
        return not NEED_REFERENCE.isdisjoint(self.fields)

    @property
    def kept(self) -> int:
        """Tokens that are not ignored."""
        return self.tokens - int(self.tokens * self.ignored)

    @property
    def shape(self) -> str:
        """N x D x V, or N x V where there are no hidden states."""
        return " x ".join(str(size) for size in (self.tokens, self.hidden, self.vocabulary) if size)

    @property
    def slug(self) -> str:
        """A name for files."""
        return re.sub(r"[^\w.+]+", "-", str(self))

    def __str__(self) -> str:
        head = "" if self.head == "-" else f", {self.head} head"
        return f"{self.operation} from {self.source}{head}, {self.ignored:.0%} ignored, {self.shape}, {self.dtype}"


@dataclass(frozen=True)
class Problem:
    """The tensors of a case.

    Attributes:
        case: what they are for.
        inputs: hidden states [N, D] and head [V, D], or logits [N, V].
        labels: [N].
        reference: the frozen model's hidden states, and its head unless it is the model's, or its logits, as keyword
            arguments; empty where none is needed.
    """

    case: Case
    inputs: tuple[Tensor, ...]
    labels: Tensor
    reference: dict[str, Tensor]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The inputs that get a gradient."""
        return tuple(x for x in self.inputs if x.requires_grad)

    @property
    def reference_inputs(self) -> tuple[Tensor, ...]:
        """The frozen model's hidden states and head, or its logits; none where none are needed."""
        shared = {"reference_weight": self.inputs[1].detach()} if "reference_hidden" in self.reference else {}
        return tuple({**shared, **self.reference}[name] for name in sorted({**shared, **self.reference}))

    @cached_property
    def kept(self) -> Tensor:
        """Number of tokens that count."""
        return (self.labels != IGNORED).sum()

    def means(self, record: TokenStatistics) -> tuple[Tensor, ...]:
        """Mean of each differentiable field over the tokens that count."""
        return tuple(getattr(record, name).sum() / self.kept for name in self.case.differentiable)

    def double(self) -> Problem:
        """The same numbers in float64."""
        inputs = tuple(x.detach().double().requires_grad_(x.requires_grad) for x in self.inputs)
        return replace(self, inputs=inputs, reference={name: x.double() for name, x in self.reference.items()})


def make(case: Case) -> Problem:
    """Draw the inputs of a case: logits of unit variance, and a reference 30 % of that away, a KL of about 0.04.

    A model whose head trains is compared with a reference that has a frozen head of its own; else they share theirs.
    """
    torch.manual_seed(0)
    wide = "float32" if case.source.startswith("row ") else case.dtype
    options = {"dtype": getattr(torch, wide), "device": case.device}
    labels = torch.randint(case.vocabulary, (case.tokens,), device=case.device)
    labels[torch.randperm(case.tokens, device=case.device)[: case.tokens - case.kept]] = IGNORED
    if case.source == "hidden":
        hidden = torch.randn(case.tokens, case.hidden, **options)
        weight = torch.randn(case.vocabulary, case.hidden, **options) / case.hidden**0.5
        inputs = (hidden.requires_grad_(), weight.requires_grad_(case.head == "trainable"))
    else:
        inputs = (torch.randn(case.tokens, case.vocabulary, **options).requires_grad_(),)
    reference = {}
    if case.needs_reference:
        name = "reference_hidden" if case.source == "hidden" else "reference_logits"
        reference[name] = inputs[0].detach() + 0.3 * torch.randn_like(inputs[0])
        if case.source == "hidden" and case.head == "trainable":
            reference["reference_weight"] = inputs[1].detach().clone()
    return Problem(case, inputs, labels, reference)


Function = Callable[[Problem], tuple[Tensor, ...]]  # the mean of each differentiable field, with its gradient


def step(problem: Problem, function: Function) -> Callable[[], tuple[Tensor, ...]]:
    """What is timed: it returns the gradients, or the values where the case asks for the forward pass alone."""
    if problem.case.source == "row sums":
        return torch.no_grad()(lambda: function(problem))
    if problem.case.source == "row gradient":
        loss = torch.stack(function(problem)).sum()
        return lambda: torch.autograd.grad(loss, problem.leaves, retain_graph=True)
    return lambda: torch.autograd.grad(torch.stack(function(problem)).sum(), problem.leaves)


@dataclass(frozen=True)
class Preset:
    """A set of cases: every operation, source, head and share of ignored tokens on every shape.

    Attributes:
        tokens: N.
        shapes: (D, V).
        dtype: of the inputs.
        operations: names among `OPERATIONS`.
        sources: names among `SOURCES`.
        heads: names among `HEADS`, for cases from hidden states.
        ignored: shares of ignored tokens.
    """

    tokens: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    dtype: str = "float32"
    operations: tuple[str, ...] = tuple(OPERATIONS)
    sources: tuple[str, ...] = ("hidden",)
    heads: tuple[str, ...] = HEADS
    ignored: tuple[float, ...] = (0.0, 0.6)

    def cases(self, device: str) -> list[Case]:
        """All of them, shape by shape."""
        found = [
            Case(operation, source, head, ignored, tokens, hidden, vocabulary, self.dtype, device)
            for hidden, vocabulary in self.shapes
            for tokens in self.tokens
            for ignored in self.ignored
            for operation in self.operations
            for source in self.sources
            for head in (self.heads if source == "hidden" else ("-",))
        ]
        return [case if case.source == "hidden" else replace(case, hidden=0) for case in found]


GPU_SHAPES = ((4096, 128256), (2048, 128256), (4096, 32000), (2304, 256000))
SINGLE = ("log_prob", "log_prob+entropy", "uniform_kl", "reference_kl")
SWEEP = {"operations": ("log_prob",), "heads": ("trainable",), "ignored": (0.0,)}
LOGITS_SHAPES = {"tokens": (4096,), "shapes": ((0, 32000), (0, 128256)), "sources": LOGITS}
PRESETS: dict[str, Preset] = {
    "small": Preset((256,), ((384, 32000),), operations=SINGLE),
    "sweep": Preset((256,), tuple((384, v) for v in (8000, 16000, 32000, 64000)), **SWEEP),
    "issue": Preset((1024,), ((512, 128256),)),
    "gpu": Preset((8192, 2048), GPU_SHAPES, "bfloat16"),
    "gpu-sweep": Preset((2048,), tuple((2048, v) for v in (32000, 64000, 128256, 256000)), "bfloat16", **SWEEP),
    "gpu-logits": Preset(**LOGITS_SHAPES, dtype="bfloat16", operations=SINGLE, ignored=(0.0,)),
}
