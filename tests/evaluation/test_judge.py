"""Rows of all sets are evaluated together: what a row gets does not depend on the rows beside it."""

import pytest
from transformers import AutoModelForCausalLM

from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation.judge import Judge, Row
from lightning_unlearn.evaluation.tofu import probabilities
from lightning_unlearn.metrics.nli import load_nli_model
from lightning_unlearn.metrics.sentence_encoder import load_sentence_encoder
from tests.evaluation.test_shared import SETS, assert_same


@pytest.fixture
def judge(tiny_model_dir, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir()).double()
    generation = {"max_new_tokens": 6, "batch_size": 4, "temperature": 1.0}
    return Judge(
        model, Encoder(tiny_tokenizer), generation, 8192, load_sentence_encoder("lexical"), load_nli_model("lexical")
    )


def test_a_row_gets_the_same_alone(judge):
    rows = [Row(name, i, record) for name, records in SETS.items() for i, record in enumerate(records)]
    together, alone = judge.samples(rows), [sample for row in rows for sample in judge.samples([row])]
    assert_same({"all": together}, {"all": alone})
    for row, sample in zip(rows, together, strict=True):
        assert (sample["set"], sample["index"], sample["question"]) == (row.set, row.index, row.record.question)
        assert sample["probability"] == probabilities([sample], row.set).item()
    assert judge.samples([]) == []
