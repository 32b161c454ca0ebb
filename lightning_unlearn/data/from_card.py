"""The data module of a run again, from what its run card tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_unlearn.data.module import UnlearningDataModule

BATCHES = ("batch_size", "tokens_per_batch")  # say nothing of the rows


def data_of_run(card: Mapping[str, Any], *, tokenizer: str | Path) -> UnlearningDataModule:
    """Make the data module that a run card names, and check that its rows are those of the run.

    Args:
        card: content of `run_card.json`.
        tokenizer: name or folder.

    Raises:
        ValueError: if the card names no data module of ours, does not tell an option, or the rows have changed.
    """
    about = card.get("data") or {}
    made_by = _class(str(about.get("class", "")))
    options = {name: value for name, value in about.get("hyperparameters", {}).items() if name not in BATCHES}
    options["tokenizer"] = tokenizer
    if options.get("request_rows") is None:
        options.pop("request", None)
    untold = [name for name, value in options.items() if isinstance(value, str) and value.startswith("<")]
    if untold:
        raise ValueError(f"data must be given: the run card does not tell {', '.join(untold)} of {made_by.__name__}")
    data = made_by(**options)
    if data.fingerprint() != about.get("sets"):
        raise ValueError("data must be given: those that the run card names hold other rows than the run had")
    return data


def _class(path: str) -> type[UnlearningDataModule]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"data must be given: the run card names no data module ({path or 'none'})") from error
    if not (isinstance(found, type) and issubclass(found, UnlearningDataModule)):
        raise ValueError(f"data must be given: the run card names {path}, which is no UnlearningDataModule")
    return found
