"""The RWKU protocol (arXiv 2406.10890): what is still said about people, how ever it is asked, from the log.

Nothing here runs a model. The paper's other tests of utility (MMLU, BBH, TruthfulQA, TriviaQA) are tasks of lm_eval,
see `lightning_unlearn.callbacks.general_ability`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_unlearn.evaluation.log import Log
from lightning_unlearn.evaluation.privacy import ATTACKS
from lightning_unlearn.evaluation.rows import column, has
from lightning_unlearn.evaluation.unlearning_score import fluencies

RECALL = "rougeL_recall"
LEVELS = ("forget_fill_in", "forget_question")
NEIGHBORS = ("neighbor_fill_in", "neighbor_question")
TEXTS = ("forget", "retain")
MEMBERSHIP = ("loss", "zlib", "min_k_0.2", "min_k_plus_plus")


def scores(log: Log) -> dict[str, float]:
    """Compute every number of the protocol that the log allows.

    Keys: "rwku/<set>", the mean ROUGE-L recall of a set of probes (`rouge_score`, words stemmed; the authors use the
    package `rouge`, which does not), in [0, 1], of which those of forget are better low and those of neighbours high;
    "rwku/forget_adversarial", of all rows of the nine adversarial sets; "rwku/forget_mean" of fill-in, question and
    adversarial, and "rwku/neighbor_mean" of the two. "rwku/<set>_<attack>" is the mean score of a membership attack
    over the texts of "forget" or "retain", higher for what a model was trained on: low on forget and high on retain is
    better. "rwku/fluency" is the mean weighted n-gram entropy, bits, higher is better (the authors' code prints half of
    it, over the tokens of another tokenizer of words).

    Args:
        log: samples by set.
    """
    adversarial = [name for name in log if name.startswith("forget_") and name not in LEVELS]
    probes = [name for name in (*LEVELS, *adversarial, *NEIGHBORS) if has(log.get(name, ()), RECALL)]
    recalls = {name: column(log[name], RECALL) for name in probes}
    means = {name: values.mean().item() for name, values in recalls.items()}
    if attacked := [recalls[name] for name in adversarial if name in recalls]:
        means["forget_adversarial"] = torch.cat(attacked).mean().item()
    means |= _mean_of("forget_mean", (*LEVELS, "forget_adversarial"), means)
    means |= _mean_of("neighbor_mean", NEIGHBORS, means)
    if has(log.get("fluency", ()), "generation"):
        means["fluency"] = fluencies(log["fluency"]).mean().item()
    return {f"rwku/{name}": value for name, value in (means | _membership(log)).items()}


def _mean_of(name: str, parts: Sequence[str], means: dict[str, float]) -> dict[str, float]:
    """The mean of numbers, where all of them are there."""
    return {name: sum(means[part] for part in parts) / len(parts)} if means.keys() >= set(parts) else {}


def _membership(log: Log) -> dict[str, float]:
    """Mean scores of the attacks over the texts of each set."""
    found = {}
    for name in TEXTS:
        for attack in MEMBERSHIP:
            needed, score = ATTACKS[attack]
            if has(log.get(name, ()), *needed):
                found[f"{name}_{attack}"] = score(log[name]).mean().item()
    return found
