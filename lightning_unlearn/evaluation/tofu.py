"""The TOFU protocol (arXiv 2401.06121): model utility and forget quality from per-sample logs.

Reads our logs and the ones that the TOFU authors publish. Nothing here runs a model.

Shapes: B rows of a set, K perturbed (wrong) answers a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_unlearn.data.requests import must_go
from lightning_unlearn.evaluation import log as samples_log
from lightning_unlearn.evaluation.log import OPTION_SETS, UTILITY_SETS, Log, Sample
from lightning_unlearn.evaluation.rows import column, has, row_wise, table
from lightning_unlearn.metrics.forget_quality import ks_p_value
from lightning_unlearn.metrics.options_probability import options_probability
from lightning_unlearn.metrics.probability import answer_probability
from lightning_unlearn.metrics.truth_ratio import (
    RatioFunction,
    arithmetic_truth_ratio,
    geometric_truth_ratio,
    ratio_closeness,
    ratio_utility,
)

RATIOS: dict[str, RatioFunction] = {"geometric": geometric_truth_ratio, "arithmetic": arithmetic_truth_ratio}
UTILITY_CHOICES = (UTILITY_SETS, ("retain",))
PUBLISHED_SETS = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}
PUBLISHED_KEYS = {
    "gt_loss": "answer_nll",
    "num_token_gt": "answer_tokens",
    "paraphrased_loss": "paraphrase_nll",
    "num_token_paraphrased": "paraphrase_tokens",
    "perturb_loss": "perturbed_nll",
    "num_token_perturb": "perturbed_tokens",
    "rouge1_recall": "rouge1_recall",
    "rougeL_recall": "rougeL_recall",
}


def model_utility(log: Log, *, truth_ratio: str = "geometric") -> float:
    """Compute the harmonic mean of probability, ROUGE-L recall and truth ratio over the three sets that must be kept.

    These are retain, real authors and world facts. In [0, 1], higher is better; 0 if any of the 9 numbers is 0. A log
    with retain alone of the three (continual unlearning) gives the mean of its 3 numbers. Source: TOFU (arXiv
    2401.06121, section 2.2.1).

    Args:
        log: samples by set.
        truth_ratio: "geometric" (leaderboard) or "arithmetic" mean of the wrong answers' probabilities.

    Raises:
        ValueError: if one of the three sets is missing, or lacks what a number needs.
    """
    ratio = _ratio(truth_ratio)
    numbers = [number for name in utility_sets(log) for number in _set_numbers(log[name], name, ratio)]
    return harmonic_mean(numbers)


def forget_quality(log: Log, retrained_log: Log, *, truth_ratio: str = "geometric") -> float:
    """Compute the p-value that the forget set's truth ratios are those of the retrained model, in [0, 1].

    Higher is better, below 0.05 forgetting failed. Source: TOFU (arXiv 2401.06121, section 2.2.2).

    Args:
        log: samples of the unlearned model.
        retrained_log: samples of a model trained without the forget set.
        truth_ratio: "geometric" or "arithmetic".

    Raises:
        ValueError: if either log has no forget set with perturbed answers.
    """
    ratio = _ratio(truth_ratio)
    for argument, value in (("log", log), ("retrained_log", retrained_log)):
        if not value.get("forget"):
            raise ValueError(f'{argument} must hold the set "forget", got sets {list(value)}')
    return ks_p_value(truth_ratios(log["forget"], ratio), truth_ratios(retrained_log["forget"], ratio))


def scores(log: Log, retrained_log: Log | None = None) -> dict[str, float]:
    """Compute every number of the protocol that the log allows.

    Keys: "<set>/probability", "<set>/rouge1_recall", "<set>/rougeL_recall", "<set>/truth_ratio" (mean min(R, 1/R) on
    forget, mean max(0, 1 - R) elsewhere; left out where a set has no perturbed answers), "model_utility", and with a
    retrained model's log "forget_quality"; the last two also with the suffix "_arithmetic".

    Args:
        log: samples by set.
        retrained_log: samples of a model trained without the forget set.
    """
    result = {}
    for name, samples in log.items():
        if has(samples, "answer_nll", "answer_tokens"):
            result[f"{name}/probability"] = probabilities(samples, name).mean().item()
        for key in ("rouge1_recall", "rougeL_recall"):
            if has(samples, key):
                result[f"{name}/{key}"] = column(samples, key).mean().item()
        if has_perturbed(samples):
            score = ratio_closeness if must_go(name) else ratio_utility
            result[f"{name}/truth_ratio"] = score(truth_ratios(samples, geometric_truth_ratio)).mean().item()
    for form, suffix in (("geometric", ""), ("arithmetic", "_arithmetic")):
        if can_have_utility(log):
            result[f"model_utility{suffix}"] = model_utility(log, truth_ratio=form)
        if retrained_log is not None and has_perturbed(log.get("forget", ())):
            result[f"forget_quality{suffix}"] = forget_quality(log, retrained_log, truth_ratio=form)
    return result


def read_log(path: str | Path, *, stage: str | None = None) -> Log:
    """Read a log: our JSON lines, a run folder, or the JSON file that the TOFU authors publish.

    Args:
        path: file or run folder.
        stage: whose samples, where several share our file; see `evaluation.log.read_log`.

    Raises:
        ValueError: if there is no such file or stage, or it holds something else.
    """
    if Path(path).is_file():
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            content = None  # JSON lines
        if isinstance(content, dict) and "set" not in content:
            return _read_published(content, path)
    return samples_log.read_log(path, stage=stage)


def harmonic_mean(numbers: Sequence[float]) -> float:
    """Compute the harmonic mean of numbers of at least 0; 0 if any is 0.

    Example:
        >>> harmonic_mean([1.0, 0.5])
        0.6666666666666666
        >>> harmonic_mean([1.0, 0.0])
        0.0
    """
    return 0.0 if 0 in numbers else len(numbers) / sum(1 / number for number in numbers)


def utility_sets(log: Log) -> tuple[str, ...]:
    """Name the sets that utility is computed over: retain, real authors and world facts, or retain alone.

    Raises:
        ValueError: for any other choice of the three.
    """
    found = _present(log)
    if found not in UTILITY_CHOICES:
        raise ValueError(f"the evaluated sets must be {', '.join(UTILITY_SETS)} (or retain alone), got {list(log)}")
    return found


def can_have_utility(log: Log) -> bool:
    """Tell whether the log has what model utility needs."""
    found = _present(log)
    return found in UTILITY_CHOICES and all(has_perturbed(log[name]) for name in found)


@row_wise
def probabilities(samples: Sequence[Sample], set_name: str) -> Tensor:
    """Compute each sample's probability of its answer (among the options in real authors, world facts): float64 [B]."""
    nll, tokens = column(samples, "answer_nll"), column(samples, "answer_tokens")
    if set_name in OPTION_SETS and has_perturbed(samples):
        return options_probability(nll, tokens, table(samples, "perturbed_nll"), table(samples, "perturbed_tokens"))
    return answer_probability(nll, tokens)


@row_wise
def truth_ratios(samples: Sequence[Sample], ratio: Callable[..., Tensor] = geometric_truth_ratio) -> Tensor:
    """Compute R of each sample: float64 [B].

    Raises:
        ValueError: if a sample has no perturbed answer.
    """
    return ratio(
        column(samples, "paraphrase_nll"),
        column(samples, "paraphrase_tokens"),
        table(samples, "perturbed_nll"),
        table(samples, "perturbed_tokens"),
    )


def has_perturbed(samples: Sequence[Sample]) -> bool:
    """Tell whether there are samples and every one has perturbed answers."""
    return has(samples, "perturbed_tokens")


def _present(log: Log) -> tuple[str, ...]:
    return tuple(name for name in UTILITY_SETS if log.get(name))


def _set_numbers(samples: Sequence[Sample], name: str, ratio: RatioFunction) -> list[float]:
    return [
        probabilities(samples, name).mean().item(),
        column(samples, "rougeL_recall").mean().item(),
        ratio_utility(truth_ratios(samples, ratio)).mean().item(),
    ]


def _ratio(name: str) -> RatioFunction:
    if name not in RATIOS:
        raise ValueError(f'truth_ratio must be "geometric" or "arithmetic", got "{name}"')
    return RATIOS[name]


def _read_published(content: Mapping[str, Any], path: str | Path) -> Log:
    """Turn the published layout, file -> key -> row number -> value, into samples."""
    unknown = sorted(set(content) - set(PUBLISHED_SETS))
    if unknown or not content:
        raise ValueError(f'"{path}" must hold {sorted(PUBLISHED_SETS)}, got {unknown or "nothing"}')
    return {
        PUBLISHED_SETS[file]: [_published_sample(columns, row, PUBLISHED_SETS[file]) for row in columns["gt_loss"]]
        for file, columns in content.items()
    }


def _published_sample(columns: Mapping[str, Mapping[str, Any]], row: str, set_name: str) -> Sample:
    prompt, output, answer = columns["generated_text"][row]
    numbers = {ours: columns[theirs][row] for theirs, ours in PUBLISHED_KEYS.items()}
    question = prompt.removeprefix("[INST] ").removesuffix(" [/INST]")
    return {"set": set_name, "index": int(row), "question": question, "answer": answer, "generation": output, **numbers}
