"""Likelihood metrics and membership attacks the usual way: for each of them a padded forward, dense logits, a softmax.

Shapes: B rows of a batch, L padded length, n labelled tokens of a row, V vocabulary.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.evaluation_cases import Rows
from benchmarks.step_cases import pad
from lightning_unlearn.data.packing import IGNORE_INDEX, TokenRow
from lightning_unlearn.metrics.extraction_strength import extraction_strength

BATCH = 32
Score = Callable[[Tensor, Tensor], float]
"""A number of one row, of log-distributions [n, V] and labels [n]."""


@torch.no_grad()
def forward(model: nn.Module, rows: list[TokenRow], score: Score) -> list[float]:
    """Run the model over rows in batches, padded to the longest of each, and score every row."""
    found = []
    for start in range(0, len(rows), BATCH):
        logits, labels = _logits(model, rows[start : start + BATCH])
        log_probs = logits.float().log_softmax(-1)
        for some, label in zip(log_probs, labels, strict=True):
            chosen = label != IGNORE_INDEX
            found.append(float(score(some[chosen], label[chosen])))
    return found


def _logits(model: nn.Module, rows: list[TokenRow]) -> tuple[Tensor, Tensor]:
    """Logits [B, L - 1, V] and the labels that they predict, [B, L - 1]."""
    batch = {name: x.to(model.device) for name, x in pad({"rows": rows}, None)["rows"].items()}
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return output.logits[:, :-1], batch["labels"][:, 1:]


def gradient_norm(model: nn.Module, rows: list[TokenRow]) -> list[float]:
    """The norm of the gradient of each row's mean NLL, a row at a time."""
    found = []
    for row in rows:
        logits, labels = _logits(model, [row])
        loss = nn.functional.cross_entropy(logits[0].float(), labels[0], ignore_index=IGNORE_INDEX)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found.append(torch.stack([gradient.float().norm() for gradient in gradients]).norm().item())
    return found


def mean_log_prob(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Mean log-probability of the labels, nats."""
    return _log_prob(log_probs, labels).mean()


def log_prob(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Sum of the same."""
    return _log_prob(log_probs, labels).sum()


def _log_prob(log_probs: Tensor, labels: Tensor) -> Tensor:
    return log_probs.gather(1, labels[:, None])[:, 0]


def correct(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Share of the labels that are the most probable token."""
    return (log_probs.argmax(-1) == labels).double().mean()


def extraction(log_probs: Tensor, labels: Tensor) -> float:
    """Extraction strength."""
    return extraction_strength((log_probs.argmax(-1) == labels).tolist())


def entropy(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Mean entropy of the predictions, nats."""
    return -(log_probs.exp() * log_probs).sum(-1).mean()


def lowest(values: Tensor, k: float) -> Tensor:
    """Mean of the share k that is lowest."""
    return values.sort().values[: max(1, int(k * len(values)))].mean()


def min_k(log_probs: Tensor, labels: Tensor, k: float = 0.2) -> Tensor:
    """Min-K."""
    return lowest(_log_prob(log_probs, labels), k)


def min_k_plus_plus(log_probs: Tensor, labels: Tensor, k: float = 0.2) -> Tensor:
    """Min-K++."""
    p = log_probs.exp()
    mean = (p * log_probs).sum(-1)
    variance = (p * log_probs.square()).sum(-1) - mean.square()
    return lowest((_log_prob(log_probs, labels) - mean) / variance.clamp(min=1e-6).sqrt(), k)


def metrics(model: nn.Module, reference: nn.Module, rows: Rows) -> dict[str, Callable[[], Tensor]]:
    """Each metric with what computes it of all rows, attacks of the members and then of the others."""
    tokens = rows.tokens
    both = tokens["answers"] + tokens["others"]
    texts = [record.answer.encode() for record in (*rows.members, *rows.others)]
    wrong = [some for name, some in tokens.items() if name.startswith("wrong")]

    def means(some: list[TokenRow], of: nn.Module = model) -> Tensor:
        return torch.tensor(forward(of, some, mean_log_prob), dtype=torch.float64)

    def truth_ratio() -> Tensor:
        right, mistaken = means(tokens["paraphrases"]), torch.stack([means(some) for some in wrong])
        return (mistaken.mean(0) - right).exp()

    def zlib_attack() -> Tensor:
        sums = torch.tensor(forward(model, both, log_prob), dtype=torch.float64)
        return sums / torch.tensor([len(zlib.compress(text)) for text in texts])

    def scored(some: list[TokenRow], score: Score) -> Callable[[], Tensor]:
        return lambda: torch.tensor(forward(model, some, score), dtype=torch.float64)

    return {
        "probability": lambda: means(tokens["answers"]).exp(),
        "paraphrase_probability": lambda: means(tokens["paraphrases"]).exp(),
        "truth_ratio": truth_ratio,
        "exact_memorization": scored(tokens["answers"], correct),
        "extraction_strength": scored(tokens["answers"], extraction),
        "predictive_entropy": scored(tokens["answers"], entropy),
        "loss": lambda: means(both),
        "zlib": zlib_attack,
        "min_k_0.4": scored(both, partial(min_k, k=0.4)),
        "min_k_plus_plus": scored(both, min_k_plus_plus),
        "reference": lambda: means(both) - means(both, reference),
        "gradient_norm": lambda: -torch.tensor(gradient_norm(model, both), dtype=torch.float64),
    }
