"""Under which names scores are logged, and which of them Lightning's own callbacks monitor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

PREFIX = "eval/"


def logged(scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores under the names that they are logged by.

    Example:
        >>> logged({"model_utility": 0.5})
        {'eval/model_utility': 0.5}
    """
    return {PREFIX + key: value for key, value in scores.items()}


def monitored(callbacks: Iterable[Any]) -> list[str]:
    """Return the keys of the scores that callbacks monitor, such as checkpoints and early stopping."""
    monitors = filter(None, (getattr(callback, "monitor", None) for callback in callbacks))
    return [monitor.removeprefix(PREFIX) for monitor in monitors if monitor.startswith(PREFIX)]


def check_monitored(callbacks: Iterable[Any], known: Collection[str]) -> None:
    """Check that what callbacks monitor are scores of validations.

    Args:
        callbacks: of a Trainer.
        known: keys of the scores; none where nothing is evaluated in training.

    Raises:
        ValueError: for another one.
    """
    unknown = [key for key in monitored(callbacks) if key not in known]
    if unknown:
        names = ", ".join(PREFIX + key for key in known) or "none, as training_max_rows is 0"
        raise ValueError(f"monitor must be a score of this evaluation, got {PREFIX + unknown[0]!r}; there are: {names}")
