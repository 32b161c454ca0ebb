"""What of a model is compiled: what its decoder layers do with each token by itself."""

from __future__ import annotations

from torch import nn

from lightning_unlearn.head import causal_lm
from lightning_unlearn.sharding import decoder_layers


def compile_layers(model: nn.Module) -> None:
    """Compile norms and MLPs of the decoder layers in place, once for any number of tokens.

    Attention stays as it is: its rows have other lengths in every step, and would be compiled anew each time.

    Args:
        model: a transformers causal LM, or a PEFT model of one.
    """
    for layer in decoder_layers(causal_lm(model))[1]:
        for name, part in layer.named_children():
            if "attn" not in name and "attention" not in name:
                part.compile(dynamic=True)
