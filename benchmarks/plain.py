"""The formulation that everybody writes: padded rows, one forward of the whole model a role, dense logits.

A reference is a second model in memory, run without gradient. Losses are those of our objectives with their defaults
(tests hold loss and gradients together); where existing code averages over padding, this does not.

Shapes: B rows of a role, L padded length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.step_cases import IGNORE_INDEX, Padded

BETA = 0.1  # of NPO, DPO and AP
ME_WEIGHT = 0.1
Loss = Callable[[nn.Module, nn.Module | None, Padded], Tensor]


def log_probs(model: nn.Module, role: Mapping[str, Tensor]) -> Tensor:
    """Log-probabilities of every next token, in float32 at least, padding included: [B, L - 1, V]."""
    logits = model(input_ids=role["input_ids"], attention_mask=role["attention_mask"], use_cache=False).logits
    logits = logits[:, :-1]
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)


def masked(role: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Shifted labels, 0 where ignored, and where they count: [B, L - 1]."""
    labels = role["labels"][:, 1:]
    return labels.clamp(min=0), labels != IGNORE_INDEX


def label_log_probs(log_p: Tensor, role: Mapping[str, Tensor]) -> Tensor:
    """log p_y, 0 where no label counts: [B, L - 1]."""
    labels, mask = masked(role)
    return log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1) * mask


def mean(values: Tensor, role: Mapping[str, Tensor]) -> Tensor:
    """Mean over the labelled tokens of values [B, L - 1]."""
    mask = masked(role)[1]
    return (values * mask).sum() / mask.sum()


def nll(model: nn.Module, role: Mapping[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood of the labelled tokens."""
    return -mean(label_log_probs(log_probs(model, role), role), role)


def sequence_log_probs(model: nn.Module, role: Mapping[str, Tensor]) -> Tensor:
    """Summed log p_y of each row: [B]."""
    return label_log_probs(log_probs(model, role), role).sum(-1)


def sigmoid_loss(margin: Tensor, factor: float) -> Tensor:
    """-(factor / beta) mean log sigmoid(beta margin), margin [B]."""
    return -factor / BETA * F.logsigmoid(BETA * margin).mean()


def me_gd(model: nn.Module, reference: nn.Module | None, batch: Padded) -> Tensor:
    """KL(U || p) on forget, NLL on retain."""
    log_p = log_probs(model, batch["forget"])
    divergence = -log_p.mean(-1) - log(log_p.shape[-1])
    return ME_WEIGHT * mean(divergence, batch["forget"]) + nll(model, batch["retain"])


def npo_kl(model: nn.Module, reference: nn.Module, batch: Padded) -> Tensor:
    """NPO on forget, KL(q || p) on retain."""
    with torch.no_grad():
        theirs, log_q = sequence_log_probs(reference, batch["forget"]), log_probs(reference, batch["retain"])
    forget = sigmoid_loss(theirs - sequence_log_probs(model, batch["forget"]), 2.0)
    divergence = F.kl_div(log_probs(model, batch["retain"]), log_q, reduction="none", log_target=True).sum(-1)
    return forget + mean(divergence, batch["retain"])


def dpo(model: nn.Module, reference: nn.Module, batch: Padded) -> Tensor:
    """DPO of refusals against answers on forget; DPO+GD adds the NLL on retain."""
    with torch.no_grad():
        theirs = {role: sequence_log_probs(reference, batch[role]) for role in ("forget_idk", "forget")}
    won, lost = (sequence_log_probs(model, batch[role]) - theirs[role] for role in ("forget_idk", "forget"))
    return sigmoid_loss(won - lost, 2.0)


def dpo_gd(model: nn.Module, reference: nn.Module, batch: Padded) -> Tensor:
    """DPO on forget, NLL on retain."""
    return dpo(model, reference, batch) + nll(model, batch["retain"])


def idk_ap(model: nn.Module, reference: nn.Module | None, batch: Padded) -> Tensor:
    """NLL of refusals on forget, answer preservation on retain."""
    kept, refused = (sequence_log_probs(model, batch[role]) for role in ("retain", "retain_idk"))
    return nll(model, batch["forget_idk"]) + sigmoid_loss(kept - refused, 1.0)


PLAIN: dict[str, Loss] = {"ME+GD": me_gd, "NPO+KL": npo_kl, "DPO+GD": dpo_gd, "IDK+AP": idk_ap}
