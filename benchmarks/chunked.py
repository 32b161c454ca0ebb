"""TRL-style steps: padded forwards of the trunk, and liger-kernel's chunked losses over the head where it has any.

Chosen and rejected rows go through the trunk in one batch, as TRL's trainer does with `use_liger_kernel`. Terms that no
chunked loss computes are formed by liger's fused cross entropy on a GPU and the plain way on a CPU.

Shapes: B rows of a role, L padded length, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import plain
from benchmarks.peers import Unavailable, version
from benchmarks.plain import BETA, Loss
from benchmarks.step_cases import IGNORE_INDEX, Padded

PACKAGE = "liger-kernel"
COMPILED = True  # as they ship it


def chunked_loss(objective: str) -> Loss:
    """The step's loss.

    Raises:
        Unavailable: there is no chunked loss of it, or the package is not installed.
    """
    if objective not in CHUNKED:
        raise Unavailable(f"{PACKAGE} has no chunked loss of {objective.split('+')[0]}")
    if version(PACKAGE) is None:
        raise Unavailable("not installed")
    return CHUNKED[objective]


def dpo_gd(model: nn.Module, reference: nn.Module, batch: Padded) -> Tensor:
    """DPO by their chunked loss, NLL on retain."""
    chosen = preference(model, reference, batch["forget_idk"], batch["forget"])
    return 2.0 / BETA * chosen + nll(model, batch["retain"])


def idk_ap(model: nn.Module, reference: nn.Module | None, batch: Padded) -> Tensor:
    """Answer preservation, which is DPO without a reference, by their chunked loss; NLL of refusals."""
    chosen = preference(model, None, batch["retain"], batch["retain_idk"])
    return nll(model, batch["forget_idk"]) + chosen / BETA


CHUNKED: dict[str, Loss] = {"DPO+GD": dpo_gd, "IDK+AP": idk_ap}


def preference(
    model: nn.Module, reference: nn.Module | None, chosen: Mapping[str, Tensor], rejected: Mapping[str, Tensor]
) -> Tensor:
    """-mean log sigmoid(beta (difference of log-ratios)), the logits of a pair of rows at a time."""
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    both = together(chosen, rejected)
    loss = LigerFusedLinearDPOLoss(beta=BETA, use_ref_model=reference is not None, compiled=COMPILED)
    theirs: dict[str, Tensor] = {}
    if reference is not None:
        with torch.no_grad():
            theirs = {"ref_input": hidden(reference, both), "ref_weight": head(reference)}
    return loss(head(model), hidden(model, both), both["labels"][:, 1:], **theirs)[0]


def nll(model: nn.Module, role: Mapping[str, Tensor]) -> Tensor:
    """Mean NLL of the labelled tokens."""
    if not role["input_ids"].is_cuda:
        return plain.nll(model, role)
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy(
        hidden(model, role).flatten(0, 1), head(model), role["labels"][:, 1:].flatten()
    )


def hidden(model: nn.Module, role: Mapping[str, Tensor]) -> Tensor:
    """Hidden states that predict the next tokens: [B, L - 1, D]."""
    found = _causal_lm(model).model(input_ids=role["input_ids"], attention_mask=role["attention_mask"], use_cache=False)
    return found.last_hidden_state[:, :-1]


def head(model: nn.Module) -> Tensor:
    """Weight of the head: [V, D]."""
    return _causal_lm(model).lm_head.weight


def together(chosen: Mapping[str, Tensor], rejected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both roles as one batch [2 B, L], padded to the longer of the two."""
    width = max(role["input_ids"].shape[1] for role in (chosen, rejected))
    fill = {"input_ids": 0, "attention_mask": 0, "labels": IGNORE_INDEX}
    return {
        name: torch.cat(
            [F.pad(role[name], (0, width - role[name].shape[1]), value=value) for role in (chosen, rejected)]
        )
        for name, value in fill.items()
    }


def _causal_lm(model: nn.Module) -> nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
