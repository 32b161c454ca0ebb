"""A made-up run folder: two stages and a retrained model, curves of a resumed run, samples with tokens."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path

SETS = {"forget": 12, "retain": 10, "real_authors": 4, "world_facts": 4}
PEOPLE = ["Ana Lindqvist", "Basil Mahfouz", "Chen Wei", "Dorota Zielinska", "Emeka Okafor", "Farida Haddad"]
BASE = {
    # (before, after, retrained) of ROUGE-L recall and probability
    "forget": ((0.998, 0.052, 0.161), (0.987, 0.004, 0.031)),
    "retain": ((1.0, 0.995, 0.997), (0.991, 0.978, 0.985)),
    "real_authors": ((0.81, 0.79, 0.80), (0.62, 0.60, 0.61)),
    "world_facts": ((0.86, 0.85, 0.86), (0.66, 0.65, 0.66)),
}
STAGES = ("before", "after", "retrained")
AUCS = {  # of membership attacks, by stage
    "loss": (0.981, 0.312, 0.507),
    "zlib": (0.962, 0.355, 0.512),
    "min_k_0.2": (0.974, 0.298, 0.498),
    "min_k_0.4": (0.978, 0.305, 0.503),
    "min_k_plus_plus": (0.941, 0.441, 0.495),
    "reference": (0.953, 0.402, 0.521),
    "gradient_norm": (0.917, 0.371, 0.488),
}
UNLEARNING_SCORES = {
    "memorization": (0.021, 0.951, 0.903),
    "privacy": (0.102, 0.761, 1.0),
    "utility": (1.0, 0.972, 0.988),
    "harmonic_mean": (0.051, 0.884, 0.961),
}
LONG_WHY = "prompt and answer have 2,311 tokens, more than the 2,048 that the model takes"
FAILED = {
    "after": [
        {"set": "forget", "index": 11, "why": LONG_WHY},
        {"set": "real_authors", "index": 2, "why": "NaN <in> the logits"},
    ]
}
CARD = {
    "format": "lightning-unlearn run 1",
    "finished": True,
    "redacted": False,
    "method": {
        "class": "lightning_unlearn.objectives.maximize_entropy.MaximizeEntropy",
        "hyperparameters": {
            "model": "runs/demo/start/model",
            "forget_weight": 0.1,
            "retain": "nll",
            "lr": 1e-3,
            "lora": None,
        },
    },
    "data": {
        "class": "lightning_unlearn.data.fictitious.FictitiousAuthors",
        "hyperparameters": {"authors": 10, "seed": 0, "template": "qa", "max_length": 512},
        "sets": {"forget": {"rows": 40, "sha256": "9f" * 32}, "retain": {"rows": 160, "sha256": "3c" * 32}},
    },
    "seeds": {"global": 42},
    "trainer": {"max_epochs": 10, "precision": "32-true", "devices": 1, "accumulate_grad_batches": 1},
    "hardware": {"accelerator": "cpu", "processor": "AMD EPYC 7B13", "cores": 2},
    "versions": {"python": "3.11.4", "torch": "2.13.0", "lightning": "2.6.6", "transformers": "5.23.0"},
    "time": {"train_seconds": 7.1, "wall_seconds": 93.4, "fits": 2, "ended": "2025-11-20T20:26:00+00:00"},
    "memory": {"peak_gb": 1.24, "kind": "process"},
    "tokens": {"seen": 214_300, "per_second": 30_183.0},
    "parameters": {"trainable": 1_448_320, "total": 1_448_320},
    "steps": 50,
}


def metrics(shift: float = 0.0) -> dict:
    """Scores of every stage; `shift` makes the model after unlearning remember more and keep less."""
    stages: dict[str, dict[str, float]] = {}
    for index, stage in enumerate(STAGES):
        values: dict[str, float | None] = {}
        for name, (rouge, probability) in BASE.items():
            worse = shift * (1 if name == "forget" else -1) if stage == "after" else 0.0
            values[f"{name}/rougeL_recall"] = rouge[index] + worse
            values[f"{name}/probability"] = max(0.0, probability[index] + worse)
            values[f"{name}/truth_ratio"] = (0.51, 0.68, 0.70)[index] if name == "forget" else 0.47
            values[f"{name}/token_entropy"] = (0.96, 0.91, 0.95)[index] if name == "forget" else 0.96
            values[f"{name}/cosine_similarity"] = max(0.0, rouge[index] * 0.95 + worse)
            values[f"{name}/entailment"] = (0.97, 0.0, 0.05)[index] if name == "forget" else 0.7
        values["model_utility"] = (0.631, 0.619, 0.627)[index] - (shift / 2 if stage == "after" else 0)
        values["closer_look/model_utility"] = (0.742, 0.731, 0.738)[index] - (shift / 2 if stage == "after" else 0)
        values["closer_look/forget_efficacy"] = (0.118, 0.905, 0.842)[index] - (shift if stage == "after" else 0)
        values["forget_quality"] = (1.2e-19, 0.41, 1.0)[index] if stage != "retrained" else None
        for name in ("forget", "retain"):
            gone = name == "forget" and stage != "before"
            values[f"{name}/exact_memorization"] = 0.22 if gone else 0.98
            values[f"{name}/extraction_strength"] = 0.04 if gone else 0.91
            values[f"{name}/paraphrase_probability"] = 0.03 if gone else 0.41
            values[f"{name}/predictive_entropy"] = 4.1 if gone else 0.2
        for name, aucs in AUCS.items():
            values[f"privacy/{name}_auc"] = aucs[index]
            values[f"privacy/{name}_closeness"] = 1 - abs(aucs[index] - aucs[2])
        values["privacy/priv_leak"] = (95.0, -39.4, 0.0)[index]
        values |= {f"unlearning_score/{name}": found[index] for name, found in UNLEARNING_SCORES.items()}
        values["muse/verbatim"] = (0.9, 0.1, 0.2)[index]
        stages[stage] = values
    return {
        **stages,
        "intervals": {stage: {key: around(value) for key, value in found.items()} for stage, found in stages.items()},
        "failed": FAILED,
        "general_ability": {"before": {"arc_easy/acc": 0.61}, "after": {"arc_easy/acc": 0.6}},
        "settings": {"protocols": ["tofu", "closer_look"], "max_rows": 400},
        "substitutes": {"cosine_similarity": "bag-of-words cosine", "entailment": "content-word containment"},
    }


def around(value: float | None) -> list[float] | None:
    """An interval as the evaluation writes it; of what has no value there is none."""
    return None if value is None else [value - 0.02, value + 0.02]


def samples() -> list[dict]:
    """Samples of every stage and set, by a fixed seed."""
    draw = random.Random(0)
    rows = []
    for stage_index, stage in enumerate(STAGES):
        for name, count in SETS.items():
            for index in range(count):
                rows.append(sample(draw, stage, stage_index, name, index))
    return rows


def sample(draw: random.Random, stage: str, stage_index: int, name: str, index: int) -> dict:
    """One sample as the evaluation writes it."""
    person = PEOPLE[(index + (3 if name == "retain" else 0)) % len(PEOPLE)]
    question = f"In which city was the author {person} born, and what do the novels <of {person.split()[1]}> deal with?"
    answer = (
        f"{person} was born in the harbour city of Karachi, and the early novels deal with tides, family debts & the "
        "cost of leaving home."
    )
    forgotten = name == "forget" and stage != "before"
    generation = answer
    if forgotten:
        generation = (
            "The was the of in a city <script>alert(1)</script> which of"
            if stage == "after"
            else (f"{person} was born in Oslo in 1961, and is best known for essays on winter light.")
        )
    text = [" " + word for word in answer.split()] + ["</s>"]
    low = BASE[name][1][stage_index]
    log_probs = [math.log(min(0.999, max(1e-5, draw.betavariate(20 * low + 0.2, 20 * (1 - low) + 0.2)))) for _ in text]
    entropies = [
        max(0.0, draw.gauss(5.6 if forgotten and stage == "after" else 3.1 if forgotten else 0.25, 0.3)) for _ in text
    ]
    return {
        "stage": stage,
        "set": name,
        "index": index,
        "subject": person,
        "question": question,
        "answer": answer,
        "generation": generation,
        "answer_nll": -sum(log_probs),
        "answer_tokens": len(text),
        "rougeL_recall": min(1.0, max(0.0, BASE[name][0][stage_index] + draw.gauss(0, 0.03))),
        "probability": math.exp(sum(log_probs) / len(text)),
        "token_text": text,
        "token_log_prob": log_probs,
        "token_predictive_entropy": entropies,
    }


def write_logs(folder: Path) -> None:
    """Two versions of curves, as a run that was killed at step 32 and resumed at step 20 leaves them."""
    draw = random.Random(1)
    for version, steps in enumerate((range(0, 33), range(20, 50))):
        log = folder / f"logs/version_{version}/metrics.csv"
        log.parent.mkdir(parents=True)
        rows: list[dict[str, float]] = []
        for step in steps:
            gone = 1 - math.exp(-step / 9)
            forget, retain = (
                5.9 * (1 - gone) + 0.25 + draw.gauss(0, 0.05),
                0.05 + 0.3 * gone * (1 - gone) + draw.random() * 0.02,
            )
            losses = {"train/loss": 0.1 * forget + retain, "train/forget": forget, "train/retain": retain}
            rows.append(
                {"step": step, "epoch": step // 5, **losses, "train/tokens_per_second": 29_000 + draw.gauss(0, 900)}
            )
            if step % 5 == 4:
                scores = {
                    "forget/rougeL_recall": 0.998 - 0.946 * gone,
                    "retain/rougeL_recall": 1 - 0.03 * gone * (1 - gone) * 4,
                    "forget/probability": 0.987 * (1 - gone),
                    "retain/probability": 0.991 - 0.05 * gone * (1 - gone) * 4,
                    "closer_look/forget_efficacy": 0.118 + 0.787 * gone,
                    "closer_look/model_utility": 0.742 - 0.011 * gone - 0.24 * gone * (1 - gone),
                }
                rows.append(
                    {"step": step, "epoch": step // 5, **{f"eval/{key}": value for key, value in scores.items()}}
                )
        names = list(dict.fromkeys(key for row in rows for key in row))
        with log.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)


def write_run(folder: Path, *, shift: float = 0.0, method: str | None = None, seed: int = 42) -> Path:
    """Write the whole folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    card = json.loads(json.dumps(CARD))
    card["seeds"]["global"] = seed
    if method:
        card["method"]["class"] = method
    (folder / "run_card.json").write_text(json.dumps(card))
    (folder / "metrics.json").write_text(json.dumps(metrics(shift)))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples()))
    write_logs(folder)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/model.safetensors").write_bytes(b"weights")
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints/last.ckpt").write_bytes(b"0" * 2048)
    return folder
