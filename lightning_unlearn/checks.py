"""What must be right of a run before it starts: strategy, roles, precision. It changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from lightning_unlearn.models import positions

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from lightning_unlearn.objectives.base import Objective


def check_run(objective: Objective) -> None:
    """Check the Trainer and the data that an objective runs with.

    Raises:
        ValueError: for a strategy that gathers weights in `forward` alone, a role that the data does not provide, or an
            update rule that lacks its retain term or meets a precision that scales losses.
    """
    strategy, kind = objective.trainer.strategy, type(objective).__name__
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy):  # whose weights are whole only inside `forward`
        raise ValueError(
            f"strategy must be lightning_unlearn.strategy.ShardedStrategy to shard a model, got {type(strategy)}"
        )
    provided = getattr(getattr(objective.trainer, "datamodule", None), "roles", None)
    if provided is not None and (missing := [role for role in objective.roles if role not in provided]):
        raise ValueError(
            f"{kind} needs the roles {objective.roles}; the data provides {tuple(provided)}, not {', '.join(missing)}"
        )
    if objective.update is not None:
        _check_rule(objective)


def check_lengths(trainer: Trainer | None) -> None:
    """Check that the model of a trainer takes every row of "forget" and "retain" of its data.

    Raises:
        ValueError: naming the longest row.
    """
    data, module = getattr(trainer, "datamodule", None), getattr(trainer, "lightning_module", None)
    model = getattr(module, "model", None)
    if model is None or not hasattr(data, "longest_row"):
        return
    limit, (tokens, place) = positions(model), data.longest_row()
    if limit is not None and tokens > limit:
        raise ValueError(
            f"max_length must be at most {limit}, the most tokens that the model takes, so that longer rows are cut; "
            f"got {data.max_length}, and {place} has {tokens}"
        )


def _check_rule(objective: Objective) -> None:
    rule, plugin = objective.update, objective.trainer.precision_plugin
    name = type(rule).__name__
    if isinstance(plugin, MixedPrecision) and plugin.scaler is not None:
        raise ValueError(f'precision must not scale losses with update={name}, got "16-mixed"')
    if rule.needs_retain and objective.retain is None:
        raise ValueError(f'retain must name a term for update={name}, got "none"')
