"""Shapes of models, as transformers configs: what the step is measured on and what memory is planned for."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import LlamaConfig


@dataclass(frozen=True)
class Shape:
    """A Llama in numbers.

    Attributes:
        hidden: D.
        intermediate: I, width of the MLP.
        layers: decoder layers.
        heads: attention heads.
        key_value_heads: key-value heads.
        vocabulary: V.
        tied: whether head and embedding are one weight.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool = False

    def config(self) -> LlamaConfig:
        """The config of a model of this shape; the special tokens are those of `train_tokenizer`."""
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=2048,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )


SHAPES = {
    "tiny": Shape(64, 160, 2, 4, 2, 2000),
    "vocabulary": Shape(256, 688, 2, 8, 8, 128256),
    "issue": Shape(512, 1376, 4, 8, 8, 32000),
    "llama-3.2-1b": Shape(2048, 8192, 16, 32, 8, 128256, tied=True),
    "llama-3.1-8b": Shape(4096, 14336, 32, 32, 8, 128256),
    "llama-3.1-70b": Shape(8192, 28672, 80, 64, 8, 128256),
    "llama-3.1-405b": Shape(16384, 53248, 126, 128, 8, 128256),
}
