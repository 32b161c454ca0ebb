"""Cosine similarity of an output's and the reference answer's sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_unlearn.metrics.row_mean import RowMean
from lightning_unlearn.metrics.sentence_encoder import (
    DEFAULT_SENTENCE_ENCODER,
    SentenceEncoder,
    load_sentence_encoder,
)

_PAIRS_PER_CALL = 64


def cosine_similarity(outputs: Sequence[str], targets: Sequence[str], *, encoder: SentenceEncoder) -> list[float]:
    """Compute max(0, cosine) between the embeddings of each output and its target, in [0, 1].

    0 where either embedding is the zero vector. Source: closer-look (arXiv 2410.08109, section 3).

    Args:
        outputs: generated texts.
        targets: reference answers, one for each output.
        encoder: list of texts -> [texts, dimensions].

    Raises:
        ValueError: if the lengths differ or the encoder returns another shape.

    Example:
        >>> from lightning_unlearn.metrics.sentence_encoder import lexical_encoder
        >>> cosine_similarity(["Rome", "no idea"], ["rome", "Paris"], encoder=lexical_encoder)
        [1.0, 0.0]
    """
    if len(outputs) != len(targets):
        raise ValueError(f"outputs and targets must be of one length, got {len(outputs)} and {len(targets)}")
    values: list[float] = []
    for at in range(0, len(outputs), _PAIRS_PER_CALL):
        left, right = list(outputs[at : at + _PAIRS_PER_CALL]), list(targets[at : at + _PAIRS_PER_CALL])
        vectors = torch.as_tensor(encoder(left + right))
        if vectors.ndim != 2 or len(vectors) != 2 * len(left):
            raise ValueError(
                f"sentence_encoder must return [{2 * len(left)}, dimensions] for {2 * len(left)} texts, "
                f"got shape {tuple(vectors.shape)}"
            )
        cosine = torch.nn.functional.cosine_similarity(*vectors.double().split(len(left)), dim=1)
        values += cosine.clamp(0, 1).tolist()
    return values


class CosineSimilarity(RowMean):
    """Mean over rows of max(0, cosine) between the sentence embeddings of output and reference answer.

    In [0, 1]. On retained data higher is better, on forgotten data lower. Source: closer-look (arXiv 2410.08109).

    Args:
        encoder: hub name, local folder, callable, or "lexical" (a substitute: report it as such).

    Example:
        >>> metric = CosineSimilarity("lexical")
        >>> metric.update(["in Rome", "no idea"], ["in Rome", "Paris"])
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, encoder: str | Path | SentenceEncoder = DEFAULT_SENTENCE_ENCODER) -> None:
        super().__init__()
        self.encoder = load_sentence_encoder(encoder)

    def update(self, outputs: Sequence[str], targets: Sequence[str]) -> None:
        """Add rows: generated texts and their reference answers."""
        self.add(cosine_similarity(outputs, targets, encoder=self.encoder))
