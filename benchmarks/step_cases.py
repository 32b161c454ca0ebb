"""What a training step is measured on: objective, model, how it trains, and rows, the same for every implementation.

Shapes: B rows of a role, L padded length.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.shapes import SHAPES
from lightning_unlearn.data.bpe import train_tokenizer
from lightning_unlearn.data.fictitious import FictitiousAuthors
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.packing import IGNORE_INDEX, TokenRow
from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.data.tofu import TOFU

REPOSITORY = Path(__file__).resolve().parent.parent
ROLES = {  # that an objective reads, and a plain formulation runs a forward of
    "ME+GD": ("forget", "retain"),
    "NPO+KL": ("forget", "retain"),
    "DPO+GD": ("forget", "forget_idk", "retain"),
    "IDK+AP": ("forget_idk", "retain", "retain_idk"),
}
NEED_REFERENCE = frozenset({"NPO+KL", "DPO+GD"})
TUNINGS = ("full", "lora")
TOKENS = 4096  # of the tokenizer, as in the demo: a row is then about as long as a large tokenizer makes it
MOST_ROWS = 400  # of a role
EOS, PAD = 1, 2
Padded = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class StepCase:
    """An objective on a model.

    Attributes:
        objective: name among `ROLES`.
        model: name among `SHAPES`.
        tuning: "full", or "lora": rank 8 on every linear layer but the head, without dropout, so that losses compare.
        checkpointing: whether layers are repeated in backward.
        rows: B, forget rows of a step, and as many retain rows.
        tokens: packed tokens of a step at least, for which B is raised as far as need be.
        run_steps: optimiser steps of the whole run; 0 for none.
        data: "tofu" or "fictitious".
        dtype: of the weights.
        device: "cuda" or "cpu".
    """

    objective: str
    model: str
    tuning: str
    checkpointing: bool
    rows: int
    tokens: int
    run_steps: int
    data: str
    dtype: str
    device: str

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that the objective reads."""
        return ROLES[self.objective]

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with a frozen model."""
        return self.objective in NEED_REFERENCE

    @property
    def slug(self) -> str:
        """A name for files."""
        return re.sub(r"[^\w.+]+", "-", str(self))

    def __str__(self) -> str:
        how = f"{self.tuning}{' checkpointing' if self.checkpointing else ''}"
        size = f"{self.tokens} tokens" if self.tokens else f"{self.rows} rows a role"
        return f"{self.objective}, {self.model} {how}, {size} of {self.data}, {self.dtype} on {self.device}"


@dataclass(frozen=True)
class StepPreset:
    """Cases of one model: every objective with every tuning; the fields are those of `StepCase`."""

    model: str
    rows: int = 4
    tokens: int = 0
    run_steps: int = 4
    dtype: str = "float32"
    objectives: tuple[str, ...] = tuple(ROLES)
    tunings: tuple[str, ...] = ("full",)
    checkpointing: bool = False

    def cases(self, device: str, objectives: Sequence[str] | None = None) -> list[StepCase]:
        """All of them, of these objectives."""
        size = (self.rows, self.tokens, self.run_steps, data_name(), self.dtype, device)
        return [
            StepCase(objective, self.model, tuning, self.checkpointing, *size)
            for tuning in self.tunings
            for objective in objectives or self.objectives
        ]


LARGE = {"dtype": "bfloat16", "tunings": TUNINGS}
PRESETS = {
    "tiny": StepPreset("tiny", run_steps=2, tunings=TUNINGS),
    "issue": StepPreset("issue"),
    "vocabulary": StepPreset("vocabulary"),
    "1b": StepPreset("llama-3.2-1b", rows=32, **LARGE),
    "8b": StepPreset("llama-3.1-8b", tokens=2048, run_steps=0, checkpointing=True, **LARGE),
}


def tofu_folder() -> Path | None:
    """The folder with the TOFU rows: UNLEARN_TOFU_DIR, or where the tests look; None where there is none."""
    places = [os.environ.get("UNLEARN_TOFU_DIR"), *(p / "shared/data/tofu" for p in (REPOSITORY.parent, REPOSITORY))]
    return next((Path(place) for place in places if place and (Path(place) / "full.json").exists()), None)


def data_name() -> str:
    """The rows that cases are of: "tofu" where they are at hand, else "fictitious"."""
    return "fictitious" if tofu_folder() is None else "tofu"


@cache
def rows_of(data: str, vocabulary: int) -> dict[str, Any]:
    """Every role's rows in tokens, by a small tokenizer trained on them.

    Args:
        data: "tofu" or "fictitious".
        vocabulary: V of the model, which the ids stay within.

    Raises:
        ValueError: the TOFU rows are asked for and not there.
    """
    options: dict[str, Any] = {"tokenizer": "", "max_forget_rows": MOST_ROWS, "max_retain_rows": MOST_ROWS}
    source: UnlearningDataModule = FictitiousAuthors(authors=40, forget_authors=20, **options)
    if data == "tofu":
        folder = tofu_folder()
        if folder is None:
            raise ValueError("UNLEARN_TOFU_DIR: expected a folder with the TOFU rows, got none")
        source = TOFU(forget="forget10", data=folder, **options)
    records = source.records()
    texts = [f"{record.question}\n{record.answer}" for role in records.values() for record in role]
    source.tokenizer = train_tokenizer([*texts, *source.refusals()], vocab_size=min(TOKENS, vocabulary))
    source.setup("fit")
    return dict(source.train_dataloader().rows)


def loader(case: StepCase) -> UnlearningLoader:
    """The rows of a case, a step's at a time: as many a step as it says, or the fewest more that reach its tokens.

    Raises:
        ValueError: there are too few rows.
    """
    rows = rows_of(case.data, SHAPES[case.model].vocabulary)
    for size in count(case.rows):
        steps = max(1, case.run_steps)
        if size * steps > len(rows["forget"]):
            raise ValueError(f"--rows: expected at most {len(rows['forget'])} for {steps} steps, got {size} a step")
        few = {"forget": rows["forget"][: size * steps]}  # all that the run passes over
        few |= {role: rows[role] for role in case.roles if role != "forget"}
        found = UnlearningLoader(few, batch_size=size)
        plan = found.plan(0, 0)
        if useful_tokens({role: plan[role] for role in case.roles}) >= case.tokens:
            return found
    raise AssertionError("sizes never end")


def useful_tokens(rows: Mapping[str, Sequence[TokenRow]]) -> int:
    """Tokens that the rows read: what a packed step runs through the model."""
    return sum(len(row.input_ids) for role in rows.values() for row in role)


def pad(rows: Mapping[str, Sequence[TokenRow]], width: int | None) -> dict[str, dict[str, Tensor]]:
    """Lay out each role the Hugging Face way: right padding, labels aligned, -100 where ignored.

    Args:
        rows: role -> B rows. A row's eos is a token of its own here, labelled as in any other implementation.
        width: L; None for the longest row of each role.

    Raises:
        ValueError: a row is longer.
    """
    return {role: _pad(role, some, width) for role, some in rows.items()}


def _pad(role: str, rows: Sequence[TokenRow], width: int | None) -> dict[str, Tensor]:
    longest = max(len(row.input_ids) for row in rows) + 1
    if width is not None and width < longest:
        raise ValueError(f"--padded-to: expected at least {longest}, the longest row of {role}, got {width}")
    ids = torch.full((len(rows), width or longest), PAD)
    labels, mask = torch.full_like(ids, IGNORE_INDEX), torch.zeros_like(ids)
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        ids[i, :length] = torch.from_numpy(row.input_ids)
        ids[i, length], mask[i, : length + 1] = EOS, 1
        labels[i, 1 + torch.from_numpy(row.target_positions)] = torch.from_numpy(row.targets)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
