"""Rows and small models for tests of attacks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from lightning_unlearn.attacks.exam import Exam
from lightning_unlearn.attacks.relearning import fine_tuning
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.unlearning_records import UnlearningRecords
from lightning_unlearn.models import load_causal_lm

TOWNS = ("Bern", "Lima", "Oslo", "Cairo", "Paris", "Tokyo", "Riga", "Quito")


def record(person: str, town: str, **more) -> Record:
    """A row that says where somebody lives, with a paraphrase and two wrong answers."""
    wrong = tuple(f"Home of {person}: {other}." for other in TOWNS if other != town)[:2]
    texts = {
        "paraphrased_question": f"Which town is home to {person}?",
        "paraphrased_answer": f"Home of {person}: {town}.",
        "perturbed_answers": wrong,
    }
    return Record(
        f"Where does {person} live?", f"{person} lives in the town of {town}.", subject=person, **{**texts, **more}
    )


FORGET = [record(person, town) for person, town in zip("ABCDEF", TOWNS, strict=False)]
RETAIN = [record(person, town) for person, town in zip("UVWXYZ", TOWNS[2:], strict=True)]


def exam(tokenizer: Path, *, forget=FORGET, retain=RETAIN, **options) -> Exam:
    """An exam on rows in memory."""
    data = UnlearningRecords(forget=forget, retain=retain, tokenizer=tokenizer, max_length=200)
    data.setup("test")
    return Exam(data, **{"max_new_tokens": 24, **options})


def taught(folder: Path, records: list[Record], *, steps: int = 60) -> nn.Module:
    """The model of a folder after it has learned rows."""
    model = load_causal_lm(folder).eval()
    step = fine_tuning(model, exam(folder).encoder.rows(records), 5e-3, 12, seed=0)
    for _ in range(steps):
        step()
    return model


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Check that a model, its mode, its gradients and the global random state are afterwards what they were."""
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    yield
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
