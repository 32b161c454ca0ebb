"""Protocols by name: a protocol is a module of this package, or a function anywhere, that makes scores of a log.

`scores(log)` may also take `retrained_log`, of a model trained without the forget rows, and `start_log`, of the model
before unlearning, under these names; it returns what the logs allow.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import signature
from math import isfinite
from numbers import Real
from types import ModuleType
from typing import Any

from lightning_unlearn import evaluation
from lightning_unlearn.classes import import_from_working_folder
from lightning_unlearn.data.records import shown
from lightning_unlearn.evaluation.log import Log
from lightning_unlearn.evaluation.rows import finished

Scores = dict[str, float]
Protocol = Callable[..., Scores]
OTHERS = ("retrained_log", "start_log")


def find_protocol(name: str) -> Protocol:
    """Return the function `scores` of a module of this package, or the function of an import path.

    Args:
        name: "tofu", or "package.module.function".

    Raises:
        ValueError: if there is none, with the modules that there are.
    """
    if name in protocol_names():
        return _module(name).scores
    path, _, function = name.rpartition(".")
    try:
        import_from_working_folder()
        found = getattr(import_module(path), function) if path else None
    except (ImportError, AttributeError):
        found = None
    if not callable(found):
        known = ", ".join(protocol_names())
        raise ValueError(f'protocols must be of {known}, or import paths of functions of a log, got "{name}"')
    return found


def protocol_names() -> list[str]:
    """Name the modules of this package that are protocols."""
    names = [module.name for module in pkgutil.iter_modules(evaluation.__path__)]
    return [name for name in names if hasattr(_module(name), "scores") and _module(name).__name__ != __name__]


def scores(
    protocols: Sequence[Protocol], log: Log, retrained_log: Log | None = None, start_log: Log | None = None
) -> Scores:
    """Compute the numbers of several protocols that the logs allow; what is no finite number is left out.

    Args:
        protocols: see `find_protocol`.
        log: samples by set.
        retrained_log: samples of a model trained without the forget set.
        start_log: samples of the model before unlearning.

    Raises:
        ValueError: for a protocol that returns no dict.
    """
    found = _merged(protocols, log, retrained_log, start_log)
    return {key: float(value) for key, value in found.items() if _is_number(value)}


def missing(
    protocols: Sequence[Protocol], log: Log, retrained_log: Log | None = None, start_log: Log | None = None
) -> dict[str, str]:
    """Say which scores there are not: {key: what it needs}.

    Protocols whose module has a function `missing` tell what the logs lack; of all those are named that returned no
    finite number.
    """
    functions = [getattr(sys.modules[protocol.__module__], "missing", None) for protocol in protocols]
    lacking = _merged(list(filter(None, functions)), log, retrained_log, start_log)
    found = _merged(protocols, log, retrained_log, start_log)
    return lacking | {
        key: f"a finite number, got {shown(value)}" for key, value in found.items() if not _is_number(value)
    }


def names(
    protocols: Sequence[Protocol], log: Log, retrained_log: Log | None = None, start_log: Log | None = None
) -> list[str]:
    """Name the scores that the logs allow, finite in these or not."""
    return list(_merged(protocols, log, retrained_log, start_log))


def evaluated(log: Log) -> Log:
    """Return the rows that could be evaluated, of the sets that have any."""
    return {name: rows for name, samples in log.items() if (rows := finished(samples))}


def _merged(functions: Sequence[Callable[..., dict[str, Any]]], log: Log, *others: Log | None) -> dict[str, Any]:
    """Call each function with the logs that it takes."""
    found: dict[str, Any] = {}
    for function in functions:
        taken = signature(function).parameters
        made = function(log, **{n: other for n, other in zip(OTHERS, others, strict=True) if n in taken})
        if not isinstance(made, Mapping):
            path = f"{function.__module__}.{function.__qualname__}"
            raise ValueError(f"protocols must return a dict of scores, got {type(made).__name__} of {path}")
        found |= made
    return found


def _is_number(value: Any) -> bool:
    """Whether JSON, and every reader of it, has this for a number."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _module(name: str) -> ModuleType:
    return import_module(f"{evaluation.__name__}.{name}")
