"""Load a causal language model, choose what of it trains, and save it as a Hugging Face folder.

Weights are read from safetensors only, and code that comes with a checkpoint is never run unless asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from lightning_unlearn.four_bit import dequantized, four_bit_options, is_four_bit, keep_trainable, without_four_bit
from lightning_unlearn.head import causal_lm
from lightning_unlearn.layers import decoder_layers
from lightning_unlearn.parts import is_sharded
from lightning_unlearn.processes import rank
from lightning_unlearn.sharded_save import save_sharded, untied


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters, through peft (defaults: the settings of "A Closer Look at Machine Unlearning for LLMs").

    Attributes:
        r: rank.
        alpha: the adapter's output is multiplied by alpha / r.
        dropout: probability of dropping an adapter's input.
        target_modules: module names, or "all-linear" for every linear layer but the head.
    """

    r: int = 8
    alpha: int = 32
    dropout: float = 0.05
    target_modules: str | list[str] = "all-linear"


def load_causal_lm(
    model: str | Path | nn.Module,
    *,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    load_in_4bit: bool = False,
) -> nn.Module:
    """Load a causal LM by name or folder (also a folder with a peft adapter); a ready module is returned as it is.

    Args:
        model: checkpoint name, folder, or module.
        dtype: precision of the weights (default: the checkpoint's).
        attn_implementation: transformers' attention name (default: transformers' choice).
        trust_remote_code: run code that comes with the checkpoint.
        load_in_4bit: quantise the linear layers, see `lightning_unlearn.four_bit`.

    Raises:
        ValueError: if the checkpoint cannot be found or holds no safetensors, or cannot be quantised.
    """
    if isinstance(model, nn.Module):
        if load_in_4bit and not is_four_bit(model):
            raise ValueError(f"load_in_4bit must be False for a ready module, got a {type(model).__name__}")
        return model
    if (
        isinstance(dtype, str)
        and dtype != "auto"
        and not getattr(getattr(torch, dtype, None), "is_floating_point", False)
    ):
        raise ValueError(f"dtype must be the name of a floating-point dtype of torch, got {dtype!r}")
    options = {"dtype": dtype or "auto", "use_safetensors": True, "trust_remote_code": trust_remote_code}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if load_in_4bit:
        options |= four_bit_options(dtype)
    try:
        adapter = (Path(model) / "adapter_config.json").exists()
        loaded = (
            _load_adapter(Path(model), options) if adapter else AutoModelForCausalLM.from_pretrained(model, **options)
        )
    except OSError as error:
        raise ValueError(_explain("model", model, "a causal LM with safetensors weights", error)) from error
    if load_in_4bit:
        keep_trainable(loaded)
    return loaded


def positions(model: nn.Module) -> int | None:
    """Return the most tokens of a row that a model takes, None where it does not say."""
    config = getattr(causal_lm(model), "config", None)
    return None if config is None else getattr(config.get_text_config(), "max_position_embeddings", None)


def loads_apart(model: str | Path | nn.Module) -> bool:
    """Whether each process can read its own part of the weights: they are in files, and of one model."""
    return not isinstance(model, nn.Module) and not (Path(model) / "adapter_config.json").exists()


def model_skeleton(model: str | Path, *, dtype: str | torch.dtype | None = None, **options: Any) -> nn.Module:
    """Build a checkpoint's model without its weights, which are on the meta device; buffers are as they should be.

    Args:
        model: checkpoint name or folder.
        dtype: precision of the weights (default: the checkpoint's).
        options: as `load_causal_lm` takes them.

    Raises:
        ValueError: if the checkpoint cannot be found.
    """
    from accelerate import init_empty_weights

    if options.pop("load_in_4bit", False):
        raise ValueError("load_in_4bit must be False for a model that is sharded, got True")
    trust = options.pop("trust_remote_code", False)
    options = {name: value for name, value in options.items() if value is not None}
    config = _config(model, trust)
    dtype = dtype if dtype not in (None, "auto") else config.dtype or torch.float32
    # Buffers such as rotary frequencies are in no checkpoint: they must be computed, not left as memory was found.
    with no_init_weights(), init_empty_weights(include_buffers=False):
        empty = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust, **options)
    empty.tie_weights()
    return empty.eval()


def layer_count(model: str | Path | nn.Module, *, trust_remote_code: bool = False) -> int | None:
    """Number of decoder layers by a model's configuration alone; None where it does not say.

    Args:
        model: checkpoint name, folder (also one with a peft adapter), or module.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        ValueError: if the checkpoint cannot be found.
    """
    if isinstance(model, nn.Module):
        config = getattr(causal_lm(model), "config", None)
    else:
        adapter = (Path(model) / "adapter_config.json").exists()
        config = _config(_base_of(Path(model)) if adapter else model, trust_remote_code)
    return None if config is None else getattr(config.get_text_config(), "num_hidden_layers", None)


def load_tokenizer(
    tokenizer: str | Path | PreTrainedTokenizerBase, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load a tokenizer by name or folder; a ready tokenizer is returned as it is.

    Raises:
        ValueError: if it cannot be found.
    """
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    try:
        return AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(_explain("tokenizer", tokenizer, "a tokenizer", error)) from error


def add_lora(model: nn.Module, lora: Lora) -> nn.Module:
    """Put low-rank adapters into the model and freeze the rest; returns the peft model.

    Raises:
        ValueError: if the model has adapters already, or cannot take these.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError("lora must be None for a model that has adapters already; they are trained as they are")

    settings = asdict(lora)
    config = LoraConfig(
        r=settings["r"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=settings["target_modules"],
        task_type="CAUSAL_LM",
    )
    with _placeholders(model):
        try:
            return get_peft_model(model, config)
        except ValueError as error:  # experts that are parameters take no dropout; names that match nothing
            raise ValueError(f"lora must suit {type(model).__name__}, got {lora} ({error})") from error


@contextmanager
def _placeholders(model: nn.Module) -> Iterator[None]:
    """Within it weights on the meta device seem to be in memory: adapters follow them, and need values of their own."""
    empty = [
        (module, n, p) for module in model.modules() for n, p in module.named_parameters(recurse=False) if p.is_meta
    ]
    for module, name, parameter in empty:
        placeholder = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)  # one number, whatever the shape
        setattr(module, name, nn.Parameter(placeholder, requires_grad=parameter.requires_grad))
    yield
    for module, name, parameter in empty:
        setattr(module, name, parameter.requires_grad_(getattr(module, name).requires_grad))


def select_trainable(
    model: nn.Module, *, layers: Sequence[int] | None = None, patterns: Sequence[str] | None = None
) -> None:
    """Of the parameters that train, freeze all but the chosen decoder layers or the names that match.

    Args:
        layers: numbers of decoder layers, from 0; negative ones count from the end.
        patterns: shell patterns of parameter names, such as "*.mlp.*"; with `layers`, both must hold.

    Raises:
        ValueError: for a layer that does not exist, or if nothing is left to train.
    """
    if layers is None and patterns is None:
        return
    chosen = _layer_prefixes(model, layers) if layers is not None else [""]
    for name, parameter in model.named_parameters():
        in_layers = any(f".{prefix}" in f".{name}" for prefix in chosen)
        chosen_name = any(fnmatch(name, pattern) for pattern in patterns or ["*"])
        parameter.requires_grad_(parameter.requires_grad and in_layers and chosen_name)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"train_layers and trainable must leave a parameter to train, got {layers} and {patterns}")


def save_model(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase | None, folder: str | Path, *, merge_lora: bool = True
) -> None:
    """Write a folder that `from_pretrained` loads: safetensors, config and tokenizer.

    Args:
        model: a transformers model or a peft model; it is not changed. One that is sharded is gathered weight by
            weight: every process must call this then, and rank 0 writes.
        tokenizer: saved beside it, unless None.
        folder: created if need be.
        merge_lora: write the base model with the adapters merged in; otherwise the adapter alone.

    Raises:
        ValueError: if the module has no `save_pretrained`, or the folder is a file.
    """
    folder = Path(folder)
    if folder.is_file():  # transformers would say so in its log, and write nothing
        raise ValueError(f"folder must be a folder, new or old, got the file {folder}")
    if not hasattr(model, "save_pretrained"):
        raise ValueError(f"model must have save_pretrained to be exported, got {type(model).__name__}")
    if is_sharded(model):
        if merge_lora and hasattr(model, "peft_config") and not _is_plain_lora(model):
            raise ValueError("merge_lora must be False for sharded adapters that are not plain LoRA, got True")
        save_sharded(model, folder, merge_lora=merge_lora)
        if rank() > 0:
            return
    elif merge_lora and hasattr(model, "merge_and_unload"):
        _save_merged(model, folder)
    else:
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _save_merged(model: nn.Module, folder: Path) -> None:
    """Merge into a copy of the weights one by one, so that the live model keeps its adapters to the last bit."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not _is_plain_lora(model):
        copy.deepcopy(model).merge_and_unload().save_pretrained(folder)
        return
    state = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer):
            weight = dequantized(module.get_base_layer().weight)
            delta = sum(module.get_delta_weight(adapter) for adapter in module.active_adapters)
            state[f"{name}.weight"] = (weight + delta).detach().to(weight.dtype)
    inner, adapted = causal_lm(model), set(state)
    for name, value in inner.state_dict(keep_vars=True).items():
        if "lora_" not in name and ".weight." not in name:  # nor scales of 4-bit weights
            state.setdefault(name.replace(".base_layer", ""), dequantized(value).detach())
    tied = dict(getattr(inner, "_tied_weights_keys", None) or {}) if inner.config.tie_word_embeddings else {}
    untie = not adapted.isdisjoint(tied.keys() | set(tied.values()))  # an adapter on one of two tied weights
    shell = without_four_bit(inner) if is_four_bit(inner) else inner
    shell.save_pretrained(folder, state_dict={name: x for name, x in state.items() if untie or name not in tied})
    if untie:
        untied(shell.config).save_pretrained(folder)


def _is_plain_lora(model: nn.Module) -> bool:
    """Whether merging is no more than adding a product to each weight: other adapters need a copy of the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = (
        config.peft_type == "LORA" and not (config.use_dora or config.lora_bias or config.modules_to_save)
        for config in model.peft_config.values()
    )
    layers = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    return all(plain) and all(hasattr(layer.get_base_layer(), "weight") for layer in layers)  # not stacked experts


def _load_adapter(folder: Path, options: dict) -> nn.Module:
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").exists():
        raise OSError(f"no adapter_model.safetensors in {folder}")
    model = AutoModelForCausalLM.from_pretrained(_base_of(folder), **options)
    return PeftModel.from_pretrained(model, folder, is_trainable=True)


def _base_of(adapter: Path) -> str:
    from peft import PeftConfig

    return PeftConfig.from_pretrained(adapter).base_model_name_or_path


def _config(model: str | Path, trust_remote_code: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(_explain("model", model, "a causal LM with safetensors weights", error)) from error


def _layer_prefixes(model: nn.Module, layers: Sequence[int]) -> list[str]:
    name, decoder = decoder_layers(causal_lm(model))
    outside = [layer for layer in layers if not -len(decoder) <= layer < len(decoder)]
    if outside:
        raise ValueError(f"train_layers must be in [-{len(decoder)}, {len(decoder)}), got {outside}")
    return [f"{name}.{layer % len(decoder)}." for layer in layers]


def _explain(argument: str, value: object, expected: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    return f"{argument} must be the name or folder of {expected}, got {str(value)!r} ({reason})"
