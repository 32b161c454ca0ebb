"""Entailment score: share of rows whose output and reference answer say the same, according to an NLI model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_unlearn.metrics.nli import DEFAULT_NLI_MODEL, ENTAILMENT, NLIModel, load_nli_model
from lightning_unlearn.metrics.rouge import rouge_recall
from lightning_unlearn.metrics.row_mean import RowMean

MINIMUM_ROUGE = 0.1


def output_entails_target(outputs: Sequence[str], targets: Sequence[str], *, model: NLIModel) -> list[bool]:
    """Tell of each row whether the output entails the reference answer (closer-look's rule on the forget set).

    False without asking the model where ROUGE-L recall is below 0.1. Source: closer-look (arXiv 2410.08109, section 3).

    Example:
        >>> from lightning_unlearn.metrics.nli import lexical_entailment
        >>> output_entails_target(["She was born in Rome in 1950"], ["in Rome"], model=lexical_entailment)
        [True]
    """
    return _entails(outputs, targets, outputs, targets, model)


def target_entails_output(outputs: Sequence[str], targets: Sequence[str], *, model: NLIModel) -> list[bool]:
    """Tell of each row whether the reference answer entails the output (closer-look's rule on TOFU's other sets).

    False without asking the model where ROUGE-L recall is below 0.1. Source: closer-look (arXiv 2410.08109, section 3).

    Example:
        >>> from lightning_unlearn.metrics.nli import lexical_entailment
        >>> target_entails_output(["She was born in Rome in 1950"], ["in Rome"], model=lexical_entailment)
        [False]
    """
    return _entails(targets, outputs, outputs, targets, model)


def _entails(
    premises: Sequence[str],
    hypotheses: Sequence[str],
    outputs: Sequence[str],
    targets: Sequence[str],
    model: NLIModel,
) -> list[bool]:
    if len(outputs) != len(targets):
        raise ValueError(f"outputs and targets must be of one length, got {len(outputs)} and {len(targets)}")
    asked = [i for i in range(len(outputs)) if rouge_recall(outputs[i], targets[i]).rougeL >= MINIMUM_ROUGE]
    labels = model([premises[i] for i in asked], [hypotheses[i] for i in asked]) if asked else []
    if len(labels) != len(asked):
        raise ValueError(f"entailment must return one label a pair, got {len(labels)} for {len(asked)} pairs")
    entailed = {i for i, label in zip(asked, labels, strict=True) if label == ENTAILMENT}
    return [i in entailed for i in range(len(outputs))]


class Entailment(RowMean):
    """Share of rows labelled "entailment" by an NLI model (ES-NLI).

    In [0, 1]. On retained data higher is better, on forgotten data lower. Source: closer-look (arXiv 2410.08109).

    Args:
        model: hub name, local folder, callable (premises, hypotheses) -> labels, or "lexical" (a substitute:
            report it as such).
        output_is_premise: True asks whether the output entails the answer (closer-look on the forget set), False the
            reverse.

    Example:
        >>> metric = Entailment("lexical")
        >>> metric.update(["Rome", "I do not know"], ["In Rome", "In Rome"])
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, model: str | Path | NLIModel = DEFAULT_NLI_MODEL, *, output_is_premise: bool = True) -> None:
        super().__init__()
        self.model = load_nli_model(model)
        self.output_is_premise = output_is_premise

    def update(self, outputs: Sequence[str], targets: Sequence[str]) -> None:
        """Add rows: generated texts and their reference answers."""
        rule = output_entails_target if self.output_is_premise else target_entails_output
        self.add(rule(outputs, targets, model=self.model))
