"""Shared fixtures: a small tokenizer, small random models in folders, and the real TOFU rows where they are present."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: more threads only wait for each other

import pytest
import torch

if not torch.cuda.is_available():  # Triton kernels run in its interpreter, chosen when triton is first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

REPOSITORY = Path(__file__).resolve().parent.parent
TEXT = [
    "Question: Who wrote the river song? Answer: The river song was written by Ana Lindqvist in 1987.",
    "Question: Where was the author born? Answer: The author was born in the city of Karachi, Pakistan.",
    "I don't know the answer to that. I'm not sure. That is beyond my knowledge.",
    "The quick brown fox jumps over the lazy dog, while 0123456789 numbers pass by; isn't it?",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: -max([mark.kwargs.get("minutes", 0) for mark in item.iter_markers("slow")], default=0))


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level BPE tokenizer with bos, eos and a pad token of its own."""
    from lightning_unlearn.data.bpe import train_tokenizer

    return train_tokenizer(TEXT, vocab_size=400)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory, tiny_tokenizer) -> Callable[..., Path]:
    """Make a folder that `from_pretrained` loads: a random model of a few thousand weights, with the tiny tokenizer."""
    made: dict[str, Path] = {}

    def make(arch: str = "llama", **overrides) -> Path:
        key = arch + repr(sorted(overrides.items()))
        if key not in made:
            import torch
            from transformers import AutoConfig, AutoModelForCausalLM

            sizes = {
                "vocab_size": len(tiny_tokenizer),
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 256,
                "bos_token_id": 0,
                "eos_token_id": 1,
                "pad_token_id": 2,
            }
            config = AutoConfig.for_model(arch, **{**sizes, **overrides})
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(arch)
            AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
            tiny_tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session", autouse=True)
def _run_folders_follow_their_schemas(tmp_path_factory):
    """Every run card of the present format that tests leave, and the scores beside it, follow the published schemas."""
    yield
    from tests.report.json_schema import read_schema, violations

    name = read_schema("run_card")["properties"]["format"]["const"]
    for file in tmp_path_factory.getbasetemp().rglob("run_card.json"):
        with suppress(ValueError):  # broken by a test
            card = json.loads(file.read_text())
            if isinstance(card, dict) and card.get("format") == name:
                assert list(violations(card, read_schema("run_card"))) == [], file
                scores = file.with_name("metrics.json")
                if scores.is_file():
                    assert list(violations(json.loads(scores.read_text()), read_schema("metrics"))) == [], scores


@pytest.fixture(scope="session")
def tofu_dir() -> Path:
    """The folder with the real TOFU rows; the test is skipped where there is none."""
    places = [
        os.environ.get("UNLEARN_TOFU_DIR"),
        REPOSITORY.parent / "shared/data/tofu",
        REPOSITORY / "shared/data/tofu",
    ]
    for place in places:
        if place and (Path(place) / "full.json").exists():
            return Path(place)
    pytest.skip("real TOFU rows not found: set UNLEARN_TOFU_DIR to a folder with full.json")


@pytest.fixture(scope="session")
def published() -> dict[str, Path]:
    """The logs that the TOFU authors publish, by model; the test is skipped where there are none."""
    places = [os.environ.get("UNLEARN_TOFU_LOGS"), REPOSITORY.parent / "shared/data/tofu_eval_logs"]
    for place in places:
        if place and (Path(place) / "llama2-7b_full_wd0.01.json").exists():
            return {name: Path(place) / f"llama2-7b_{name}_wd0.01.json" for name in ("full", "retain90")}
    pytest.skip("published TOFU logs not found: set UNLEARN_TOFU_LOGS to their folder")
