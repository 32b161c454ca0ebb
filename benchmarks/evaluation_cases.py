"""What evaluation is measured on: rows with paraphrased and wrong answers, rows nobody trained on, and a model."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from benchmarks.shapes import SHAPES
from benchmarks.step_cases import TOKENS, tofu_folder
from lightning_unlearn.data.bpe import train_tokenizer
from lightning_unlearn.data.fictitious import FictitiousAuthors
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.tofu import TOFU
from lightning_unlearn.data.tokenization import Encoder

PRESETS = {"tiny": ("tiny", 20), "issue": ("issue", 400), "1b": ("llama-3.2-1b", 400), "8b": ("llama-3.1-8b", 400)}


@dataclass(frozen=True)
class EvaluationCase:
    """A model and rows.

    Attributes:
        model: name among `SHAPES`.
        rows: rows to forget, and as many that stand for rows nobody trained on.
        data: "tofu" or "fictitious".
        dtype: of the weights.
        device: "cuda" or "cpu".
    """

    model: str
    rows: int
    data: str
    dtype: str
    device: str

    @property
    def slug(self) -> str:
        """A name for files."""
        return re.sub(r"[^\w.+]+", "-", str(self))

    def __str__(self) -> str:
        return f"{self.model}, {self.rows} rows of {self.data}, {self.dtype} on {self.device}"


def case(preset: str, device: str) -> EvaluationCase:
    """The case of a preset on a device."""
    model, rows = PRESETS[preset]
    data = "fictitious" if tofu_folder() is None else "tofu"
    return EvaluationCase(model, rows, data, "float32" if device == "cpu" else "bfloat16", device)


@dataclass
class Rows:
    """Records and their tokens.

    Attributes:
        members: records with a paraphrased and with wrong answers.
        others: as many other records.
        encoder: turns them into tokens.
    """

    members: list[Record]
    others: list[Record]
    encoder: Encoder

    @cached_property
    def tokens(self) -> dict[str, list[TokenRow]]:
        """Rows of the true answers, the paraphrases, each number of wrong answer, and the others' answers."""
        wrong = min(len(record.perturbed_answers) for record in self.members)
        answers: dict[str, list[tuple[Record, str]]] = {
            "answers": [(r, r.answer) for r in self.members],
            "paraphrases": [(r, r.paraphrased_answer) for r in self.members],
            **{f"wrong {k}": [(r, r.perturbed_answers[k]) for r in self.members] for k in range(wrong)},
            "others": [(r, r.answer) for r in self.others],
        }
        return {name: [self.encoder.row(r, answer=text) for r, text in some] for name, some in answers.items()}

    def longest(self, rows: int) -> Rows:
        """The rows with the longest answers."""
        chosen = (sorted(some, key=lambda r: -len(r.answer))[:rows] for some in (self.members, self.others))
        return Rows(*chosen, self.encoder)


def rows_of(case: EvaluationCase) -> Rows:
    """Read the rows of a case, with a small tokenizer trained on them.

    Raises:
        ValueError: there are too few.
    """
    options: dict[str, Any] = {"tokenizer": ""}
    source: UnlearningDataModule = FictitiousAuthors(authors=40, forget_authors=20, **options)
    if case.data == "tofu":
        source = TOFU(forget="forget10", data=tofu_folder(), **options)
    sets = source.evaluation_sets()
    members, others = (sets[name][: case.rows] for name in ("forget", "retain"))
    if len(members) < case.rows:
        raise ValueError(f"--rows: expected at most {len(members)}, got {case.rows}")
    tokenizer = train_tokenizer(_texts([*members, *others]), vocab_size=min(TOKENS, SHAPES[case.model].vocabulary))
    return Rows(members, [Record(r.question, r.answer) for r in others], Encoder(tokenizer))


def _texts(records: Sequence[Record]) -> list[str]:
    return [
        text for r in records for text in (r.question, r.answer, r.paraphrased_answer, *r.perturbed_answers) if text
    ]


def models_of(case: EvaluationCase) -> tuple[nn.Module, nn.Module]:
    """A model of random weights, large enough that no two predictions are alike, and another as a reference."""
    torch.manual_seed(0)
    with torch.device(case.device):
        model = AutoModelForCausalLM.from_config(SHAPES[case.model].config(), dtype=getattr(torch, case.dtype)).eval()
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for weights, factor in ((model, 3.0), (reference, 2.0)):
            for weight in weights.parameters():
                weight.mul_(factor if weight.ndim > 1 else 1.0)
    return model, reference
