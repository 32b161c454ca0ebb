"""Sample answers of a report: which are shown, side by side by stage, token by token, and masked where they must be."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup, escape

from lightning_unlearn.report.plots import distribution
from lightning_unlearn.report.runs import STAGES, Run, Sample
from lightning_unlearn.report.svg import ticks
from lightning_unlearn.report.words import SETS, mask, number

SHOWN = {"forget": 6, "retain": 4}  # of each set; 3 of any other
STRIPS = {"forget": 2, "retain": 1}
TEXTS = ("question", "answer", "generation", "subject")


def redacted(sample: Sample) -> Sample:
    """The sample without its texts: word counts in their place, tokens as dots; its numbers stay."""
    masked = {key: mask(sample[key]) for key in TEXTS if sample.get(key)}
    tokens = {"token_text": ["•"] * len(sample["token_text"])} if sample.get("token_text") else {}
    return {**sample, **masked, **tokens}


def galleries(run: Run) -> list[dict[str, Any]]:
    """Chosen samples of each set, the most telling first: what is least forgotten, what is most damaged."""
    found = []
    for name, together in _by_row(run).items():
        sign = -1 if name == "forget" else 1
        ranked = sorted(together, key=lambda stages: sign * _rouge(stages))
        kept = ranked[: SHOWN.get(name, 3)]
        cards = [_card(stages) for stages in kept]
        found.append({"name": SETS.get(name, name), "key": name, "cards": cards, "total": len(ranked)})
    return found


def strips(run: Run) -> list[dict[str, Any]]:
    """Answers token by token: for each stage the tokens with probability and entropy (as a share of the largest shown)."""
    groups = _by_row(run)
    chosen = [
        stages
        for name, most in STRIPS.items()
        for stages in [row for row in groups.get(name, []) if all(_tokens(sample) for sample in row.values())][:most]
    ]
    entropies = [token[2] for stages in chosen for sample in stages.values() for token in _tokens(sample)]
    top = max(entropies, default=0.0) or 1.0
    return [
        {
            "set": SETS.get(str(first["set"]), first["set"]),
            "question": first.get("question", ""),
            "rows": [(stage, [_token(*token, top) for token in _tokens(sample)]) for stage, sample in stages.items()],
        }
        for stages in chosen
        for first in [next(iter(stages.values()))]
    ]


def distributions(run: Run) -> list[dict[str, Any]]:
    """Distributions of answer-token probability and predictive entropy, before, after and retrained, for forget and retain."""
    drawn = []
    for name in ("forget", "retain"):
        values: dict[str, list[list[tuple[str, float, float]]]] = {
            stage: [_tokens(sample) for sample in run.samples.get(stage, []) if sample.get("set") == name] for stage in STAGES
        }
        for index, label, unit in ((1, "Probability", "probability"), (2, "Entropy", "entropy in nats")):
            groups = [(stage, stage, [token[index] for row in rows for token in row]) for stage, rows in values.items()]
            numbers = [value for _, _, group in groups for value in group]
            if numbers:
                high = 1.0 if index == 1 else ticks(0, max(1.0, *numbers), 4)[-1]
                title = f"{label} of answer tokens, {SETS[name].lower()} set"
                told = "; ".join(f"{stage}: mean {number(sum(part) / len(part))}" for stage, _, part in groups if part)
                plot = distribution(groups, high=high, x_label=unit, label=f"{title}. {told}")
                drawn.append({"title": title, "svg": plot, "told": told})
    return drawn


def marked(text: str, reference: str) -> Markup:
    """The text with the words marked that it shares, in order, with the reference.

    >>> marked("Born in Oslo <b>", "He was born in Kuwait")
    Markup('<mark>Born in</mark> Oslo &lt;b&gt;')
    """
    words, target = text.split(), [_bare(word) for word in reference.split()]
    matcher = difflib.SequenceMatcher(None, [_bare(word) for word in words], target, autojunk=False)
    parts, end = [], 0
    for start, _, size in matcher.get_matching_blocks():
        parts.append(escape(" ".join(words[end:start])))
        parts.append(Markup("<mark>{}</mark>").format(" ".join(words[start : start + size])) if size else Markup(""))
        end = start + size
    return Markup(" ").join(part for part in parts if part)


def _bare(word: str) -> str:
    return re.sub(r"\W+", "", word).lower() or word


def _by_row(run: Run) -> dict[str, list[dict[str, Sample]]]:
    """Samples of the same row side by side: set -> rows of stage -> sample, stages in their order."""
    rows: dict[str, dict[Any, dict[str, Sample]]] = {name: {} for name in SETS}
    for stage in STAGES:
        for number_, sample in enumerate(run.samples.get(stage, [])):
            group = rows.setdefault(str(sample.get("set", "")), {})
            group.setdefault(sample.get("index", number_), {})[stage] = sample
    return {name: list(group.values()) for name, group in rows.items() if group}


def _rouge(stages: dict[str, Sample]) -> float:
    value = (stages.get("after") or next(reversed(list(stages.values())))).get("rougeL_recall")
    return value if isinstance(value, (int, float)) else 0.0


def _card(stages: dict[str, Sample]) -> dict[str, Any]:
    first = next(iter(stages.values()))
    answer = str(first.get("answer", ""))
    answers = []
    for stage in STAGES:
        if stage in stages:
            sample = stages[stage]
            answers.append({"stage": stage, "text": marked(str(sample.get("generation", "")), answer), "told": _told(sample)})
    return {"question": first.get("question", ""), "answer": answer, "answers": answers}


def _told(sample: Sample) -> str:
    pairs = (("ROUGE-L", "rougeL_recall"), ("probability", "probability"))
    known = [(name, sample[key]) for name, key in pairs if isinstance(sample.get(key), (int, float))]
    return " · ".join(f"{name} {'<0.01' if 0 < value < 0.01 else number(value, 2)}" for name, value in known)


def _tokens(sample: Sample) -> list[tuple[str, float, float]]:
    """Text, probability and entropy of each labelled token; empty where the log does not hold them."""
    return list(_zip_tokens(*(sample.get(key) or () for key in ("token_text", "token_log_prob", "token_predictive_entropy"))))


def _zip_tokens(
    texts: Sequence[str], log_probs: Sequence[float], entropies: Sequence[float]
) -> Iterator[tuple[str, float, float]]:
    for text, log_prob, entropy in zip(texts, log_probs, entropies):
        if log_prob is not None and entropy is not None:
            yield text, math.exp(min(0.0, log_prob)), max(0.0, entropy)


def _token(text: str, probability: float, entropy: float, top: float) -> dict[str, Any]:
    return {
        "text": text.replace("\n", "↵"),
        "probability": f"{probability:.3f}",
        "share": f"{entropy / top:.2f}",
        "told": f"probability {number(probability)}, entropy {number(entropy)} nats",
    }
