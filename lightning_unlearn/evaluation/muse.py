"""The MUSE protocol (arXiv 2407.06460): verbatim and knowledge memorisation, privacy leakage, utility, from the log.

Its other two criteria are these numbers over runs: after each of several requests (sustainability), and for forget sets
of several sizes (scalability); see `lightning_unlearn.data.muse`. Nothing here runs a model.
"""

from __future__ import annotations

from lightning_unlearn.evaluation.log import Log
from lightning_unlearn.evaluation.privacy import HOLDOUT, min_k
from lightning_unlearn.evaluation.rows import column, has
from lightning_unlearn.metrics.auc import auc, priv_leak

ROUGE = {  # what the mean ROUGE-L F1 of a set is
    "verbatim_memorization": "forget_verbatim",
    "knowledge_memorization": "forget_knowledge",
    "utility": "retain_knowledge",
}
K = 0.4  # share of the least probable tokens that the attack reads


def scores(log: Log, retrained_log: Log | None = None) -> dict[str, float]:
    """Compute every number of the protocol that the logs allow.

    Keys: "muse/verbatim_memorization" and "muse/knowledge_memorization", in [0, 1], lower is better, and
    "muse/utility", in [0, 1], higher is better: means of ROUGE-L F1 over "forget_verbatim", "forget_knowledge" and
    "retain_knowledge"; the paper prints them times 100. "muse/min_k_auc": how well Min-K (40 %) tells "forget" from
    "holdout", in [0, 1], 0.5 where it cannot; with a retrained model's log "muse/priv_leak", percent, best at 0,
    negative where the forget texts are still known, positive where they stand out for being forgotten.

    Args:
        log: samples by set.
        retrained_log: samples of a model trained without the forget texts.
    """
    result = {
        f"muse/{key}": column(log[name], "rougeL_f1").mean().item()
        for key, name in ROUGE.items()
        if has(log.get(name, ()), "rougeL_f1")
    }
    found, retrained = min_k_auc(log), min_k_auc(retrained_log or {})
    if found is not None:
        result["muse/min_k_auc"] = found
    if found is not None and retrained is not None and retrained < 1:
        result["muse/priv_leak"] = priv_leak(found, retrained)
    return result


def min_k_auc(log: Log) -> float | None:
    """Compute the AUC of Min-K between the forget and the holdout texts, forget texts as members; None without both."""
    forget, holdout = log.get("forget", ()), log.get(HOLDOUT, ())
    if not (has(forget, "token_log_prob") and has(holdout, "token_log_prob")):
        return None
    return auc(min_k(forget, K), min_k(holdout, K))
