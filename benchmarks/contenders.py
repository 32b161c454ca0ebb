"""The implementations of a training step, all on the same weights.

Each has a module of its own around shared parameters, so that no implementation sees what another changed in its module
(ours puts its attention in), and memory holds one model, one optimiser and at most one reference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import AutoModelForCausalLM

from benchmarks.chunked import chunked_loss
from benchmarks.plain import PLAIN, Loss
from benchmarks.shapes import SHAPES
from benchmarks.step_cases import StepCase, loader, pad, useful_tokens
from lightning_unlearn.data.packing import pack
from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.models import Lora, add_lora
from lightning_unlearn.objectives.answer_preservation import AnswerPreservation
from lightning_unlearn.objectives.base import Objective
from lightning_unlearn.objectives.dpo import DPO
from lightning_unlearn.objectives.maximize_entropy import MaximizeEntropy
from lightning_unlearn.objectives.npo import NPO

OURS, PADDED = "ours", {"plain": PLAIN.__getitem__, "chunked": chunked_loss}
KINDS = (OURS, *PADDED)
LORA = Lora(dropout=0.0)
OBJECTIVES: dict[str, tuple[type[Objective], dict]] = {
    "ME+GD": (MaximizeEntropy, {"retain": "nll"}),
    "NPO+KL": (NPO, {"retain": "kl"}),
    "DPO+GD": (DPO, {"retain": "nll"}),
    "IDK+AP": (AnswerPreservation, {}),
}
OPTIONS = {"lr": 1e-5, "weight_decay": 0.01}


def make_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """What every implementation steps with."""
    return AdamW(parameters, fused=True, **OPTIONS)


@dataclass
class Setting:
    """What all implementations of a case share.

    Attributes:
        case: what to run.
        model: with the weights that train.
        reference: with those of the frozen model, None where the objective needs none.
        loader: the rows.
        optimizer: of the weights that train.
    """

    case: StepCase
    model: nn.Module
    reference: nn.Module | None
    loader: UnlearningLoader
    optimizer: Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(trained(self.model))

    @property
    def model_bytes(self) -> int:
        """Weights of the model."""
        return sum(p.nbytes for p in self.model.parameters())

    @property
    def state_bytes(self) -> int:
        """What the optimiser keeps between steps, after the first of them."""
        states = (state for state in self.optimizer.state.values())
        return sum(x.nbytes for state in states for x in state.values() if isinstance(x, Tensor))


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that train."""
    return [p for p in model.parameters() if p.requires_grad]


def prepare(case: StepCase) -> Setting:
    """Make model and reference from random weights, and read the rows."""
    torch.manual_seed(0)
    with torch.device(case.device):
        model = AutoModelForCausalLM.from_config(SHAPES[case.model].config(), dtype=getattr(torch, case.dtype))
    reference = copy.deepcopy(model).requires_grad_(False).eval() if case.needs_reference else None
    if case.tuning == "lora":
        model = add_lora(model, LORA)
    return Setting(case, model.train(), reference, loader(case))


def twin(model: nn.Module) -> nn.Module:
    """Another module around the same parameters."""
    return copy.deepcopy(model, memo={id(p): p for p in model.parameters()})


@dataclass(frozen=True)
class Contender:
    """One implementation, ready to run.

    Attributes:
        name: what the table calls it.
        tokens: that a step runs through the model, padding included.
        useful: those that are no padding.
        reference_bytes: of a second model that it holds.
        loss: of the first step's rows, with a graph.
        run: trains on all rows of the case through its own loop.
    """

    name: str
    tokens: int
    useful: int
    reference_bytes: int
    loss: Callable[[], Tensor]
    run: Callable[[], None]

    def step(self, optimizer: Optimizer) -> Callable[[], tuple[Tensor, ...]]:
        """zero_grad, losses, backward, optimiser step; returns nothing, so that gradients count as memory."""

        def step() -> tuple[Tensor, ...]:
            optimizer.zero_grad()
            self.loss().backward()
            optimizer.step()
            return ()

        return step


def name_of(kind: str, width: int | None) -> str:
    """What the table calls an implementation.

    >>> name_of("ours", None), name_of("plain", 500), name_of("plain", None)
    ('ours', 'plain to 500', 'plain to longest')
    """
    return kind if kind == OURS else f"{kind} to {width or 'longest'}"


def contender(kind: str, width: int | None, setting: Setting) -> Contender:
    """Make an implementation ready.

    Args:
        kind: name among `KINDS`.
        width: what rows are padded to, None for the longest; ours does not pad.
        setting: model and rows.

    Raises:
        Unavailable: it does not offer the objective, or is not installed.
    """
    if kind == OURS:
        return _ours(setting)
    return _padded(name_of(kind, width), PADDED[kind](setting.case.objective), width, setting)


def _ours(setting: Setting) -> Contender:
    case, rows = setting.case, _first(setting)
    needs_copy = case.needs_reference and case.tuning == "full"
    objective = make_objective(case, _checkpointed(setting), twin(setting.reference) if needs_copy else "auto")
    batch = pack(rows).to(case.device)
    tokens = useful_tokens(rows)
    held = _bytes(setting.reference) if needs_copy else 0
    return Contender(
        OURS, tokens, tokens, held, lambda: objective.losses(batch)["loss"], lambda: _fit(objective, setting)
    )


def make_objective(case: StepCase, model: nn.Module, reference: nn.Module | str) -> Objective:
    """Our objective of a case."""
    make, options = OBJECTIVES[case.objective]
    return make(
        model, reference=reference, optimizer=make_optimizer, warmup_epochs=0.0, scheduler="constant", **options
    )


def _fit(objective: Objective, setting: Setting) -> None:
    """Trainer.fit over the rows of the case."""
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="gpu" if setting.case.device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(objective, setting.loader)
    objective.to(setting.case.device)  # Lightning leaves the shared weights on the host


def _padded(name: str, loss: Loss, width: int | None, setting: Setting) -> Contender:
    case, model, rows = setting.case, _checkpointed(setting), _first(setting)
    reference = None if setting.reference is None else twin(setting.reference)
    batch = _to(pad(rows, width), case.device)
    tokens = sum(role["input_ids"].numel() for role in batch.values())

    def run() -> None:
        optimizer = make_optimizer(trained(model))
        for plan in _plans(setting):
            optimizer.zero_grad()
            loss(model, reference, _to(pad(plan, width), case.device)).backward()
            optimizer.step()

    held = 0 if reference is None else _bytes(reference)
    return Contender(name, tokens, useful_tokens(rows), held, lambda: loss(model, reference, batch), run)


def _plans(setting: Setting) -> Iterator[dict]:
    roles = setting.case.roles
    for step in range(len(setting.loader)):
        plan = setting.loader.plan(step, 0)
        yield {role: plan[role] for role in roles}


def _first(setting: Setting) -> dict:
    return next(_plans(setting))


def _to(batch: dict[str, dict[str, Tensor]], device: str) -> dict[str, dict[str, Tensor]]:
    return {role: {name: x.to(device) for name, x in tensors.items()} for role, tensors in batch.items()}


def _checkpointed(setting: Setting) -> nn.Module:
    model = twin(setting.model)
    if setting.case.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _bytes(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters())
