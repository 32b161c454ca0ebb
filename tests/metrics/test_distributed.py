"""Every metric's states add up over ranks to what one process would have found."""

import pytest
import torch

from lightning_unlearn.metrics.auc import AUC
from lightning_unlearn.metrics.cosine_similarity import CosineSimilarity
from lightning_unlearn.metrics.entailment import Entailment
from lightning_unlearn.metrics.exact_memorization import ExactMemorization
from lightning_unlearn.metrics.extraction_strength import ExtractionStrength
from lightning_unlearn.metrics.fluency import Fluency
from lightning_unlearn.metrics.forget_quality import ForgetQuality
from lightning_unlearn.metrics.membership import MinK, MinKPlusPlus
from lightning_unlearn.metrics.options_probability import OptionsProbability
from lightning_unlearn.metrics.probability import Probability
from lightning_unlearn.metrics.rouge import Rouge
from lightning_unlearn.metrics.rouge_f1 import RougeF1
from lightning_unlearn.metrics.token_entropy import TokenEntropy
from lightning_unlearn.metrics.truth_ratio import TruthRatio

WRONG = (torch.tensor([[1.0, 2.0], [3.0, 0.5], [0.1, 0.2]]), torch.tensor([[1, 2], [1, 1], [1, 1]]))
NUMBERS = (torch.tensor([0.5, 1.5, 2.0]), torch.tensor([1, 2, 1]))
TEXTS = (["in Rome", "no", "Oslo in 1950"], ["Rome", "Paris", "in 1950, Oslo"])
CORRECT = ([1, 0, 1], [0], [1, 1])
TOKENS = ([-1.0, -2.0, -0.5], [-3.0], [-0.1, -4.0])
CASES = [
    (ExactMemorization, (CORRECT,)),
    (ExtractionStrength, (CORRECT,)),
    (MinK, (TOKENS,)),
    (MinKPlusPlus, (TOKENS, TOKENS, CORRECT)),
    (AUC, (NUMBERS[0], torch.tensor([0.1, 0.7, 1.9]))),
    (RougeF1, TEXTS),
    (Fluency, (TEXTS[0],)),
    (Probability, NUMBERS),
    (OptionsProbability, (*NUMBERS, *WRONG)),
    (TruthRatio, (*NUMBERS, *WRONG)),
    (lambda: ForgetQuality(torch.tensor([0.1, 0.7, 1.9])), (NUMBERS[0],)),
    (Rouge, TEXTS),
    (TokenEntropy, ([[1, 2], [1, 1, 2], [3]],)),
    (lambda: CosineSimilarity("lexical"), TEXTS),
    (lambda: Entailment("lexical"), TEXTS),
]


@pytest.mark.parametrize(("make", "rows"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_two_ranks_with_uneven_rows_equal_one(make, rows):
    one = make()
    one.update(*rows)
    ranks = [make(), make()]
    ranks[0].update(*(column[:1] for column in rows))
    ranks[1].update(*(column[1:] for column in rows))
    # what torchmetrics' synchronisation does with the gathered states
    merged = make()
    for name, reduce in merged._reductions.items():
        states = [getattr(rank, name) for rank in ranks]
        if isinstance(states[0], list):
            setattr(merged, name, reduce([tensor for state in states for tensor in state]))
        else:
            setattr(merged, name, reduce(torch.stack(states)))
    merged._update_count = 1
    torch.testing.assert_close(merged.compute(), one.compute())
