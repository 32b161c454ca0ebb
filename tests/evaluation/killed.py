"""An evaluation that is killed once it has generated a few times, and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.evaluation import judge
from lightning_unlearn.evaluation.log import Log, read_log
from lightning_unlearn.evaluation.run import evaluate

OPTIONS = {"sentence_encoder": None, "entailment": None, "progress": False}


def killed_and_continued(
    model: nn.Module,
    data: UnlearningDataModule,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    after: int,
    **more: Any,
) -> tuple[Log, list[tuple[int, int]]]:
    """Return the log, and the prompts and most new tokens of each batch that was generated, those of both starts."""
    made: list[tuple[int, int]] = []
    original = judge.generate

    def generate(*arguments: Any, **options: Any) -> list[list[int]]:
        if len(made) == after and not continued:
            raise KeyboardInterrupt
        made.append((len(arguments[2]), options["max_new_tokens"]))
        return original(*arguments, **options)

    continued = False
    monkeypatch.setattr(judge, "generate", generate)
    options = {"set_options": data.set_options(), **OPTIONS, **more}
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data.encoder, data.evaluation_sets(), output=output, **options)
    assert read_log(output)
    continued = True
    return evaluate(model, data.encoder, data.evaluation_sets(), output=output, **options), made
