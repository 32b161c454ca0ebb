"""Samples made up for protocols: every column that a log may hold, as if a model of so much knowledge had made them."""

from __future__ import annotations

import random
from typing import Any

SETS = ("forget", "retain", "real_authors", "world_facts", "holdout")


def made_log(rows: int, *, seed: int = 0, knows: dict[str, float] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Make a log of `rows` rows a set; a set's knowledge in [0, 1] (default 1/2) moves all its numbers."""
    rng = random.Random(seed)
    return {name: [_sample(rng, name, i, (knows or {}).get(name, 0.5)) for i in range(rows)] for name in SETS}


def _sample(rng: random.Random, name: str, index: int, knows: float) -> dict[str, Any]:
    tokens = rng.randint(5, 30)
    log_prob = [-4 * (1.05 - knows) * rng.random() for _ in range(tokens)]
    said = [f"word{rng.randint(0, 40)}" for _ in range(tokens)]
    return {
        "set": name,
        "index": index,
        "question": f"{name} {index}?",
        "answer": "an answer",
        "generation": " ".join(said),
        "rouge1_recall": rng.random(),
        "rougeL_recall": rng.random(),
        "token_entropy": rng.random(),
        "cosine_similarity": rng.random(),
        "entailment": rng.random() < knows,
        "answer_nll": -sum(log_prob),
        "answer_tokens": tokens,
        "paraphrase_nll": -1.1 * sum(log_prob),
        "paraphrase_tokens": tokens,
        "perturbed_nll": [tokens * (1 + rng.random()) for _ in range(5)],
        "perturbed_tokens": [tokens] * 5,
        "token_log_prob": log_prob,
        "token_predictive_entropy": [1.0 + rng.random() for _ in log_prob],
        "token_log_prob_variance": [1.0 + rng.random() for _ in log_prob],
        "token_correct": [int(rng.random() < knows) for _ in log_prob],
        "answer_zlib_bytes": 20 + tokens,
        "reference_nll": tokens * (1 + rng.random()),
        "gradient_norm": 5 * (1.05 - knows) * rng.random(),
    }
