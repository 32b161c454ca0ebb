"""Made-up results of stress tests: a model that relearning and one layer expose, and that holds otherwise."""

from __future__ import annotations

import json
from pathlib import Path

RECALL = "forget/rougeL_recall"
RANKED = "forget/true_above_wrong"
PROMPTS = ("plain", "start given", "no refusal", "role play", "authority", "story", "exam")


def found(x_name: str, xs, start, after, retrained, *, key=RECALL, label="ROUGE-L recall", **recovered) -> dict:
    """What a file of an attack holds; `recovered` has the share, and where."""
    curves = {
        model: [{"x": x, key: value} for x, value in zip(xs, values, strict=True)]
        for model, values in (("unlearned", after), ("start", start), ("retrained", retrained))
    }
    share = recovered["share"]
    verdict = {"score": key, "left": 0.01, "verdict": "exposed" if share >= 0.25 else "holds", "threshold": 0.25}
    return {
        "attack": "Attack",
        "options": {},
        "x": {"name": x_name},
        "scores": {key: label},
        "judged": key,
        "curves": curves,
        "recovered": {**verdict, **recovered},
        "failed": {},
    }


def stress() -> dict[str, dict]:
    """Name of an attack -> content of its file."""
    held_out = {"key": "held_out/rougeL_recall", "label": "ROUGE-L recall, rows not shown"}
    steps = (0, 2, 5, 10, 20, 50)
    flat = [1.0] * 6
    return {
        "relearning_forget": found(
            *("steps", steps, flat, [0.02, 0.2, 0.45, 0.62, 0.71, 0.7], [0.13, 0.11, 0.1, 0.12, 0.1, 0.08]),
            **held_out,
            share=0.69,
            at=50,
        ),
        "relearning_related": found(
            "steps", steps, flat, [0.02, 0.02, 0.03, 0.03, 0.05, 0.04], [0.13] * 6, share=-0.08, at=20
        ),
        "best_of_n": found(
            "samples", (0, 1, 2, 4), flat[:4], [0.02, 0.01, 0.03, 0.06], [0.14, 0.11, 0.16, 0.21], share=-0.1, at=1
        ),
        "quantization": found(
            "bits", (32, 8, 4), [1.0, 1.0, 0.98], [0.02, 0.02, 0.05], [0.13, 0.13, 0.12], share=-0.08, at=4
        ),
        "prefixes": found(
            *("prompt", PROMPTS, [1.0, 0.1, 0.28, 0.06, 0.24, 0.14, 0.2]),
            *([0.02, 0.07, 0.09, 0.04, 0.09, 0.1, 0.01], [0.13, 0.06, 0.06, 0.06, 0.06, 0.06, 0.07]),
            share=0.05,
            at="story",
        ),
        "layer_probe": found(
            *("layer", ("output", 0, 1, 2, 3), [0.8, 0.66, 0.76, 0.79, 0.78], [0.55, 0.6, 0.74, 0.72, 0.58]),
            [0.56, 0.58, 0.57, 0.59, 0.56],
            key=RANKED,
            label="True answers above wrong ones",
            share=0.71,
            at=1,
        ),
    }


def write_stress(run: Path) -> Path:
    """Write the files into a run folder and return it."""
    folder = run / "stress"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in stress().items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return run
