"""What an evaluation reads of a Trainer's data module."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

from lightning.pytorch import Trainer

from lightning_unlearn.data.records import Record
from lightning_unlearn.data.set_options import SetOptions
from lightning_unlearn.data.tokenization import Encoder


def sets_and_encoder(trainer: Trainer) -> tuple[dict[str, list[Record]], Encoder]:
    """Return the records of each set, and what turns them into tokens.

    Raises:
        ValueError: for a data module that has them not, or none.
    """
    data = getattr(trainer, "datamodule", None)
    if not hasattr(data, "evaluation_sets") or getattr(data, "encoder", None) is None:
        raise ValueError(
            "Evaluate needs a data module with evaluation_sets() and, after setup, an encoder; "
            f"got {type(data).__name__ if data is not None else 'no data module'}"
        )
    return data.evaluation_sets(), data.encoder


def set_options(trainer: Trainer) -> dict[str, SetOptions]:
    """Return how the rows of some sets are asked, where that differs from the others."""
    return getattr(trainer.datamodule, "set_options", dict)()


def texts(trainer: Trainer) -> list[Any]:
    """Return what the model is asked and judged by, as JSON has it."""
    sets, encoder = sets_and_encoder(trainer)
    prompts = [[name, encoder.prompt(records[0])] for name, records in sets.items() if records]
    asked = [[name, *astuple(options)] for name, options in set_options(trainer).items()]
    rows = ([name, *astuple(replace(record, source=""))] for name, records in sets.items() for record in records)
    return [prompts, asked, *rows]
