"""A decoder in numbers, from its config alone: parameters of each part, trained ones with LoRA, and of each FSDP unit.

Shapes: D hidden size, I width of the MLP, H heads and K key-value heads of size E, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from benchmarks.shapes import SHAPES

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Linear:
    """A linear layer of a decoder layer: inputs, outputs, and whether it has a bias."""

    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Weights and bias."""
        return self.inputs * self.outputs + self.outputs * self.bias


@dataclass(frozen=True)
class Architecture:
    """What memory and traffic follow from.

    Attributes:
        hidden: D.
        intermediate: I.
        layers: decoder layers.
        heads: H x E, width of queries.
        keys: K x E, width of keys and of values.
        head_size: E.
        vocabulary: V.
        tied: whether head and embedding are one weight.
        bias: whether queries, keys and values have a bias.
        output_bias: whether the attention's output has one.
        mlp_bias: whether the MLP has.
        head_norms: whether queries and keys have a norm each.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    keys: int
    head_size: int
    vocabulary: int
    tied: bool
    bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Of a decoder layer, all of which tensor parallelism splits: q, k, v, o, gate, up, down."""
        d, i = self.hidden, self.intermediate
        return (
            Linear(d, self.heads, self.bias),
            *[Linear(d, self.keys, self.bias)] * 2,
            Linear(self.heads, d, self.output_bias),
            *[Linear(d, i, self.mlp_bias)] * 2,
            Linear(i, d, self.mlp_bias),
        )

    @property
    def split_of_layer(self) -> int:
        """Parameters of a layer that tensor parallelism splits."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def norms_of_layer(self) -> int:
        """Parameters of a layer that every tensor-parallel rank holds."""
        return 2 * self.hidden + 2 * self.head_size * self.head_norms

    @property
    def table(self) -> int:
        """Parameters of the embedding, and of the head."""
        return self.vocabulary * self.hidden

    @property
    def split(self) -> int:
        """Parameters that tensor parallelism splits."""
        return self.layers * self.split_of_layer + self.table * (1 if self.tied else 2)

    @property
    def norms(self) -> int:
        """Parameters that every tensor-parallel rank holds."""
        return self.layers * self.norms_of_layer + self.hidden

    @property
    def parameters(self) -> int:
        """All of them, a tied weight once."""
        return self.split + self.norms

    def lora_of_layer(self, rank: int) -> int:
        """Parameters of the adapters of a layer: [r, inputs] and [outputs, r] for each linear layer."""
        return sum(rank * (linear.inputs + linear.outputs) for linear in self.linears)


def architecture(config: PreTrainedConfig) -> Architecture:
    """Read the numbers from a config.

    Raises:
        ValueError: for a kind of model whose parameters are not counted here.
    """
    kind = config.model_type
    if kind not in MODEL_TYPES:
        raise ValueError(f"--model: expected one of the kinds {', '.join(MODEL_TYPES)}, got {kind}")
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bias = bool(getattr(config, "attention_bias", False))
    return Architecture(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads * size,
        keys=config.num_key_value_heads * size,
        head_size=size,
        vocabulary=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        bias=bias or kind == "qwen2",
        output_bias=bias and kind != "qwen2",
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        head_norms=kind == "qwen3",
    )


def read_config(model: str) -> PreTrainedConfig:
    """The config of a built-in shape, a folder, or a checkpoint's name.

    Raises:
        ValueError: there is none.
    """
    if model in SHAPES:
        return SHAPES[model].config()
    try:
        return AutoConfig.from_pretrained(Path(model) if Path(model).exists() else model)
    except (OSError, ValueError) as error:
        known = ", ".join(SHAPES)
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"--model: expected {known}, a folder or a checkpoint, got {model} ({first})") from error
