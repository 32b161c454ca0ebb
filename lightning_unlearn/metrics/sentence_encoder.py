"""Sentence encoders: texts in, one vector a text out.

An encoder is any callable from a list of texts to a tensor [texts, dimensions]. Vectors need be
comparable within one call only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lightning_unlearn.metrics.hub import LEXICAL, load_text_model, words

SentenceEncoder = Callable[[list[str]], Tensor]
DEFAULT_SENTENCE_ENCODER = "sentence-transformers/paraphrase-MiniLM-L6-v2"
LEXICAL_ENCODER_NAME = "lexical: cosine of bags of words"


class MeanPooledEncoder:
    """Embeds texts as the mean of a transformer encoder's last hidden states over the tokens that are not padding.

    The pooling of sentence-transformers' `paraphrase-*` models.

    Args:
        name: hub name or folder of a model that `transformers.AutoModel` loads.
        device: where it runs.
        batch_size: texts a forward.
        max_length: tokens of a text that are read.
    """

    def __init__(
        self, name: str | Path, *, device: torch.device | str = "cpu", batch_size: int = 64, max_length: int = 128
    ) -> None:
        from transformers import AutoModel

        self.model, self.tokenizer = load_text_model(AutoModel, name, "sentence_encoder", device)
        self.batch_size = batch_size
        self.max_length = max_length

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Return float32 [texts, hidden size] on the CPU."""
        parts = [self._embed(texts[at : at + self.batch_size]) for at in range(0, len(texts), self.batch_size)]
        return torch.cat(parts) if parts else torch.empty(0, self.model.config.hidden_size)

    def _embed(self, texts: list[str]) -> Tensor:
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        hidden = self.model(**inputs).last_hidden_state.float()  # [B, L, D]
        mask = inputs["attention_mask"].unsqueeze(2).float()
        return ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu()


def lexical_encoder(texts: list[str]) -> Tensor:
    """Count the words of each text over the vocabulary of this call: float32 [texts, words].

    A substitute for a sentence encoder: it sees wording, not meaning. Never call its cosine the paper's metric.

    Example:
        >>> lexical_encoder(["in Rome", "Rome, Rome"])
        tensor([[1., 1.],
                [0., 2.]])
    """
    split = [words(text) for text in texts]
    vocabulary = {word: at for at, word in enumerate(dict.fromkeys(word for text in split for word in text))}
    counts = torch.zeros(len(texts), max(len(vocabulary), 1))
    for row, text in enumerate(split):
        for word in text:
            counts[row, vocabulary[word]] += 1
    return counts


def load_sentence_encoder(
    encoder: str | Path | SentenceEncoder, *, device: torch.device | str = "cpu"
) -> SentenceEncoder:
    """Turn the `sentence_encoder` argument into a callable.

    Args:
        encoder: hub name, local folder, callable, or "lexical" for the substitute `lexical_encoder`.
        device: where a loaded model runs.

    Raises:
        ValueError: if a name or folder cannot be loaded.
    """
    if callable(encoder):
        return encoder
    return lexical_encoder if encoder == LEXICAL else MeanPooledEncoder(encoder, device=device)
