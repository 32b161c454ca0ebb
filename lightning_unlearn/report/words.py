"""Words and numbers of a report: labels of metrics and formats."""

from __future__ import annotations

import math
from typing import Any

from lightning_unlearn.data.requests import EARLIER, must_go

HOLDOUT = "holdout"
SETS = {
    "forget": "Forget",
    "retain": "Retain",
    "real_authors": "Real authors",
    "world_facts": "World facts",
    HOLDOUT: "Holdout",
}
COMES_BACK = "stress"  # "stress/<attack>": the share of what was known that it brings back
STRONGEST = f"{COMES_BACK}/strongest"
METRICS = {
    "rougeL_recall": "ROUGE-L recall",
    "rouge1_recall": "ROUGE-1 recall",
    "probability": "Probability",
    "truth_ratio": "Truth ratio",
    "token_entropy": "Token entropy",
    "cosine_similarity": "Cosine similarity",
    "entailment": "Entailment",
    "exact_memorization": "Exact memorisation",
    "extraction_strength": "Extraction strength",
    "paraphrase_probability": "Paraphrase probability",
    "predictive_entropy": "Predictive entropy (nats)",
    "fluency": "Fluency (bits)",
    "model_utility": "Model utility (TOFU)",
    "forget_quality": "Forget quality (p-value)",
    "model_utility_arithmetic": "Model utility (TOFU, arithmetic)",
    "forget_quality_arithmetic": "Forget quality (p-value, arithmetic)",
    "closer_look/model_utility": "Model utility (closer look)",
    "closer_look/forget_efficacy": "Forget efficacy (closer look)",
    "unlearning_score/memorization": "Memorisation",
    "unlearning_score/privacy": "Privacy",
    "unlearning_score/utility": "Utility",
    "unlearning_score/harmonic_mean": "Harmonic mean of the three",
    "privacy/priv_leak": "PrivLeak (percent, best at 0)",
    "muse/verbatim_memorization": "Verbatim memorisation (MUSE)",
    "muse/knowledge_memorization": "Knowledge memorisation (MUSE)",
    "muse/utility": "Utility (MUSE)",
    "muse/min_k_auc": "Min-K 40 %: AUC (MUSE)",
    "muse/priv_leak": "PrivLeak (MUSE; percent, best at 0)",
    "lume/task_aggregate": "Task aggregate (LUME)",
    "lume/mia_score": "Membership (LUME)",
    "lume/final_score": "Final score (LUME, with MMLU)",
    STRONGEST: "Strongest attack",
}
ATTACKS = {  # on membership
    "loss": "LOSS",
    "zlib": "zlib",
    "min_k_0.2": "Min-K 20 %",
    "min_k_0.4": "Min-K 40 %",
    "min_k_plus_plus": "Min-K++",
    "reference": "Reference",
    "gradient_norm": "Gradient norm",
}
STRESS_TESTS = {  # attacks on what is left
    "relearning_forget": "Relearning some of the rows",
    "relearning_related": "Fine-tuning on related rows",
    "relearning_unrelated": "Fine-tuning on unrelated rows",
    "quantization": "Coarser weights",
    "quantization_nf4": "Coarser weights (NF4)",
    "paraphrases": "The question in other words",
    "prefixes": "Instructions around the question",
    "in_context_hints": "Hints before the question",
    "best_of_n": "The best of many samples",
    "layer_probe": "Hidden states of each layer",
}
OF_ATTACKS = {"_auc": "AUC", "_closeness": "closeness to the retrained model"}
LOWER_ON_FORGET = (
    *("rougeL_recall", "rouge1_recall", "probability", "cosine_similarity", "entailment"),
    *("exact_memorization", "extraction_strength", "paraphrase_probability"),
)
ABILITIES = ("acc", "acc_norm", "exact_match", "em", "f1", "mc1", "mc2", "bleu", "rouge1", "rougeL")  # of lm_eval
HAZARDS = "wmdp"  # tasks of lm_eval whose knowledge is to go
BENCHMARKS = ("muse", "rwku", "lume")  # whose scores are named after what is asked, "<benchmark>/<set>"
UP_IN_BENCHMARKS = ("utility", "fluency", "task_aggregate", "mia_score", "final_score")
NO_AIM = ("predictive_entropy", "privacy/priv_leak")  # the best is somewhere in between
SUBSTITUTED = ("cosine_similarity", "entailment")


def metric_label(key: str, substitutes: dict[str, str] | None = None) -> str:
    """Name of a metric for readers; one that a lexical measure replaces is called by that measure, never by its own.

    >>> metric_label("forget/rougeL_recall")
    'ROUGE-L recall'
    >>> metric_label("retain/entailment", {"entailment": "token containment"})
    'token containment (substitute)'
    """
    substitutes = substitutes or {}
    if key.startswith("privacy/") and key not in METRICS:
        attack = attack_name(key)
        return ": ".join([attack_label(attack), *(what for end, what in OF_ATTACKS.items() if key.endswith(end))])
    if key.startswith("closer_look/"):
        label = METRICS.get(key, key)
        return f"{label.removesuffix(' (closer look)')} (with substitutes)" if substitutes else label
    name = key if key in METRICS else key.rpartition("/")[2]
    if key.startswith(f"{COMES_BACK}/") and key != STRONGEST:
        return stress_label(name)
    return f"{substitutes[name]} (substitute)" if name in substitutes else METRICS.get(name, name)


def column_label(key: str, substitutes: dict[str, str] | None = None) -> str:
    """Name of a metric where no heading says of which set it is.

    >>> column_label("forget/probability"), column_label("model_utility"), column_label("stress/layer_probe")
    ('Forget: Probability', 'Model utility (TOFU)', 'Comes back: Hidden states of each layer')
    """
    part = key.rpartition("/")[0]
    name, group = metric_label(key, substitutes), "Comes back" if part == COMES_BACK else set_label(part)
    return f"{group}: {name}" if group else name


def stress_label(name: str) -> str:
    """Name of a stress test for readers; of one that is not ours its own.

    >>> stress_label("layer_probe"), stress_label("my_attack")
    ('Hidden states of each layer', 'My attack')
    """
    return STRESS_TESTS.get(name, name.replace("_", " ").capitalize())


def stress_rank(name: str) -> int:
    """Place of a stress test among ours; those that are not ours come after."""
    return [*STRESS_TESTS].index(name) if name in STRESS_TESTS else len(STRESS_TESTS)


def attack_label(name: str) -> str:
    """Name of a membership attack for readers; of one that is not ours its own.

    >>> attack_label("min_k_0.2"), attack_label("mine")
    ('Min-K 20 %', 'mine')
    """
    return ATTACKS.get(name, name)


def attack_name(key: str) -> str:
    """Name of the membership attack that a score of privacy is of.

    >>> attack_name("privacy/loss_auc"), attack_name("privacy/loss_closeness"), attack_name("privacy/priv_leak")
    ('loss', 'loss', 'priv_leak')
    """
    name = key.removeprefix("privacy/")
    return next((name.removesuffix(end) for end in OF_ATTACKS if name.endswith(end)), name)


def set_label(name: str) -> str | None:
    """Name of an evaluation set for readers; None where it is not one of ours.

    >>> set_label("real_authors"), set_label("forgotten_2"), set_label("mine")
    ('Real authors', 'Forgotten by request 2', None)
    """
    if name.startswith(EARLIER):
        return f"Forgotten by request {name.removeprefix(EARLIER)}"
    return SETS.get(name)


def better(key: str) -> str:
    """Which way a metric improves, "lower" or "higher", or "" where neither does or that is not known.

    On the forget set a close answer is a failure; what is right on the holdout, which no model has met, nobody says.

    >>> better("forget/probability"), better("retain/probability"), better("privacy/loss_auc")
    ('lower', 'higher', '')
    """
    group, _, name = key.rpartition("/")
    if group == COMES_BACK:
        return "lower"
    if group in BENCHMARKS:
        if name.startswith("forget_") or name.endswith("_memorization"):
            return "lower"
        return "higher" if name.startswith(("retain_", "neighbor_")) or name in UP_IN_BENCHMARKS else ""
    if group.startswith("general_ability"):
        known, down = name.partition(" ")[0] in ABILITIES, group.partition("/")[2].startswith(HAZARDS)
    else:
        known = key in METRICS or name in METRICS or name.endswith("_closeness")
        down = must_go(group) and name in LOWER_ON_FORGET
    if not known or group == HOLDOUT or key in NO_AIM or name in NO_AIM:
        return ""
    return "lower" if down else "higher"


def number(value: float | None, digits: int = 3) -> str:
    """A short decimal, scientific where it is tiny, a dash where there is none.

    >>> number(0.05), number(1.8e-21), number(None), number(12345.6)
    ('0.050', '1.8e-21', '–', '12,346')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def span(ends: tuple[float, float] | None) -> str:
    """An interval, nothing where there is none.

    >>> span((0.04, 0.0612)), span(None)
    ('0.040 to 0.061', '')
    """
    return f"{number(ends[0])} to {number(ends[1])}" if ends else ""


def percent(share: float) -> str:
    """A share as a percentage.

    >>> percent(0.9951), percent(0.5)
    ('99.5%', '50%')
    """
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def clipped(text: str, most: int = 1200) -> str:
    """The beginning of a text that is longer than a reader wants.

    >>> clipped("a short one"), clipped("one two three", 8)
    ('a short one', 'one two…')
    """
    return text if len(text) <= most else text[:most].rstrip() + "…"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them.

    >>> duration(7.25), duration(125), duration(7260)
    ('7.2 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shown(value: Any) -> str:
    """A setting as text.

    >>> shown(None), shown(True), shown(1250000), shown(1e-05), shown(["a", 2])
    ('none', 'yes', '1,250,000', '1e-05', 'a, 2')
    """
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
