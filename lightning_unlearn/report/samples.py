"""Sample answers of a report: which are shown, side by side by stage, token by token, and how sure the models were."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from lightning_unlearn.data.requests import must_go
from lightning_unlearn.evaluation.log import Sample
from lightning_unlearn.report.plots import distribution
from lightning_unlearn.report.runs import STAGES, Run
from lightning_unlearn.report.svg import ticks
from lightning_unlearn.report.words import SETS, clipped, metric_label, number, set_label
from lightning_unlearn.report.worst import worst_first

SHOWN = {"forget": 6, "retain": 4}  # of each set; 3 of any other
STRIPS = {"forget": 2, "retain": 1}
MOST_WORDS = 80  # of an answer: a model that repeats itself has made its point by then
MOST_TOKENS = 200  # of an answer token by token


class Token(NamedTuple):
    """A labelled token: its text, its probability, and the entropy in nats of the distribution it was drawn from."""

    text: str
    probability: float
    entropy: float


def galleries(run: Run) -> list[dict[str, Any]]:
    """Chosen samples of each set, the most telling first: what is least forgotten, what is most damaged."""
    found = []
    for name, together in _by_row(run).items():
        gone = must_go(name)
        ranked = worst_first(together, falls=not gone)[: SHOWN.get(name, 3)]
        cards = [
            {**_card(row), "worst_by": [metric_label(key, run.substitutes) for key in keys]} for row, keys in ranked
        ]
        titles = {"name": set_label(name) or name, "key": name, "must_go": gone}
        found.append({**titles, "cards": cards, "total": len(together)})
    return found


def strips(run: Run) -> list[dict[str, Any]]:
    """Answers token by token, with probability and entropy of each token (as a share of the largest shown) by stage."""
    groups = _by_row(run)
    chosen = []
    for name, most in STRIPS.items():
        whole = [row for row in groups.get(name, []) if all(_tokens(sample) for sample in row.values())]
        chosen += whole[:most]
    tokens = [token for stages in chosen for sample in stages.values() for token in _tokens(sample)]
    top = max((token.entropy for token in tokens), default=0.0) or 1.0
    return [_strip(stages, top) for stages in chosen]


def distributions(run: Run) -> list[dict[str, Any]]:
    """Distributions of the probability and predictive entropy of answer tokens by stage, for forget and retain."""
    drawn = []
    for name in ("forget", "retain"):
        tokens = {stage: _tokens_of(run.samples.get(stage, []), name) for stage in STAGES}
        if any(tokens.values()):
            probabilities = {stage: [token.probability for token in found] for stage, found in tokens.items()}
            entropies = {stage: [token.entropy for token in found] for stage, found in tokens.items()}
            high = ticks(0, max([1.0, *(value for values in entropies.values() for value in values)]), 4)[-1]
            where = f"of answer tokens, {SETS[name].lower()} set"
            drawn.append(_distribution(f"Probability {where}", probabilities, high=1.0, unit="probability"))
            drawn.append(_distribution(f"Entropy {where}", entropies, high=high, unit="entropy in nats"))
    return drawn


def marked(text: str, reference: str) -> Markup:
    """The text with the words marked that it shares, in order, with the reference.

    >>> marked("Born in Oslo <b>", "He was born in Kuwait")
    Markup('<mark>Born in</mark> Oslo &lt;b&gt;')
    """
    words, target = clipped(text, most=12 * MOST_WORDS).split(), [_bare(word) for word in reference.split()]
    shown = words[:MOST_WORDS]
    matcher = difflib.SequenceMatcher(None, [_bare(word) for word in shown], target, autojunk=False)
    parts, end = [], 0
    for start, _, size in matcher.get_matching_blocks():
        parts.append(escape(" ".join(shown[end:start])))
        parts.append(Markup("<mark>{}</mark>").format(" ".join(shown[start : start + size])) if size else Markup(""))
        end = start + size
    parts.append(Markup("…") if len(words) > len(shown) else Markup(""))
    return Markup(" ").join(part for part in parts if part)


def _bare(word: str) -> str:
    return re.sub(r"\W+", "", word).lower() or word


def _by_row(run: Run) -> dict[str, list[dict[str, Sample]]]:
    """Samples of the same row side by side: set -> rows of stage -> sample, stages in their order."""
    rows: dict[str, dict[Any, dict[str, Sample]]] = {name: {} for name in SETS}
    for stage in STAGES:
        for place, sample in enumerate(run.samples.get(stage, [])):
            if not sample.get("failed"):
                group = rows.setdefault(str(sample["set"]), {})
                group.setdefault(sample.get("index", place), {})[stage] = sample
    return {name: list(group.values()) for name, group in rows.items() if group}


def _card(stages: dict[str, Sample]) -> dict[str, Any]:
    first = next(iter(stages.values()))
    answer = clipped(str(first.get("answer", "")))
    answers = [
        {"stage": stage, "text": marked(str(sample.get("generation", "")), answer), "told": _told(sample)}
        for stage, sample in stages.items()
    ]
    return {"question": clipped(str(first.get("question", ""))), "answer": answer, "answers": answers}


def _told(sample: Sample) -> str:
    pairs = (("ROUGE-L", "rougeL_recall"), ("probability", "probability"))
    known = [(name, sample[key]) for name, key in pairs if isinstance(sample.get(key), (int, float))]
    return " · ".join(f"{name} {'<0.01' if 0 < value < 0.01 else number(value, 2)}" for name, value in known)


def _tokens(sample: Sample) -> list[Token]:
    """The labelled tokens; none where the log does not hold them."""
    columns = [sample.get(key) or () for key in ("token_text", "token_log_prob", "token_predictive_entropy")]
    return [
        Token(text, math.exp(min(0.0, log_prob)), max(0.0, entropy))
        for text, log_prob, entropy in zip(*columns, strict=False)
        if log_prob is not None and entropy is not None
    ]


def _tokens_of(samples: Sequence[Sample], name: str) -> list[Token]:
    return [token for sample in samples if sample.get("set") == name for token in _tokens(sample)]


def _distribution(title: str, groups: dict[str, list[float]], *, high: float, unit: str) -> dict[str, Any]:
    known = {stage: values for stage, values in groups.items() if values}
    told = "; ".join(f"{stage}: mean {number(sum(values) / len(values))}" for stage, values in known.items())
    plot = distribution(known, high=high, x_label=unit, label=f"{title}. {told}")
    return {"title": title, "svg": plot, "stages": list(known)}


def _strip(stages: dict[str, Sample], top: float) -> dict[str, Any]:
    first = next(iter(stages.values()))
    rows = [
        (stage, [_shown(token, top) for token in _tokens(sample)[:MOST_TOKENS]]) for stage, sample in stages.items()
    ]
    question = clipped(str(first.get("question", "")))
    return {"set": SETS.get(str(first["set"]), first["set"]), "question": question, "rows": rows}


def _shown(token: Token, top: float) -> dict[str, str]:
    return {
        "text": "•" if token.text == "[redacted]" else token.text.replace("\n", "↵"),
        "probability": f"{token.probability:.3f}",
        "share": f"{token.entropy / top:.2f}",
        "told": f"probability {number(token.probability)}, entropy {number(token.entropy)} nats",
    }
