"""Rows of all sets are evaluated together: what a row gets does not depend on the rows beside it."""

import re
import zlib
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_unlearn.data.records import Record
from lightning_unlearn.data.set_options import LIKELIHOOD_ONLY, SetOptions
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation import judge as judge_module
from lightning_unlearn.evaluation.judge import Judge, Row
from lightning_unlearn.evaluation.likelihood import row_likelihoods
from lightning_unlearn.evaluation.tofu import probabilities
from lightning_unlearn.gradient_norms import row_gradient_norms
from lightning_unlearn.metrics.exact_match import exact_match
from lightning_unlearn.metrics.nli import load_nli_model
from lightning_unlearn.metrics.rouge_f1 import rouge_l_f1
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


def test_a_set_that_is_scored_by_likelihood_alone_has_no_answer(judge, monkeypatch):
    row = Row("holdout", 0, Record("", "The river song was written by Ana Lindqvist."))
    with_answer = judge.samples([row])[0]
    monkeypatch.setattr(judge_module, "generate", None)  # not even asked
    (sample,) = judge.samples([row], LIKELIHOOD_ONLY)
    assert sample["token_log_prob"] == with_answer["token_log_prob"]
    assert with_answer.keys() - sample.keys() == {
        *("generation", "rouge1_recall", "rougeL_recall", "rougeL_f1", "exact_match"),
        *("token_entropy", "fluency", "cosine_similarity", "entailment"),
    }


def test_an_answer_ends_as_its_set_has_it(judge, monkeypatch):
    asked = {}

    def answers(model, tokenizer, prompts, **options):
        asked.update(options, prompts=[tokenizer.decode(prompt) for prompt in prompts])
        return [tokenizer(" Ana Lindqvist\n\nQuestion: Who?", add_special_tokens=False).input_ids]

    monkeypatch.setattr(judge_module, "generate", answers)
    row = Row("retain_question", 0, Record("Who wrote it?", "ana lindqvist", prefill="It is by "))
    (sample,) = judge.samples([row], SetOptions(max_new_tokens=32, stop=("\n\n",)))
    assert sample["generation"] == "Ana Lindqvist"
    assert (sample["exact_match"], sample["rougeL_f1"]) == (True, 1.0)
    assert (asked["max_new_tokens"], asked["batch_size"]) == (32, 4)
    assert asked["prompts"] == ["<s>Question: Who wrote it?\nAnswer: It is by"]
    (sample,) = judge.samples([row])
    assert sample["generation"] == "Ana Lindqvist\n\nQuestion: Who?"
    assert asked["max_new_tokens"] == 6
    assert not exact_match(sample["generation"], "ana lindqvist")
    assert sample["rougeL_f1"] == rouge_l_f1(sample["generation"], "ana lindqvist") < 1


def test_an_answer_is_judged_by_as_much_of_the_true_one_as_it_may_say(judge, monkeypatch):
    tokenizer = judge.encoder.tokenizer
    start, rest = " The river song was written", " by Ana Lindqvist in the city of Karachi."
    ids = tokenizer(start, add_special_tokens=False).input_ids
    monkeypatch.setattr(judge_module, "generate", lambda *arguments, **options: [ids])
    row = Row("forget_verbatim", 0, Record("", start + rest, prefill="Once upon a time."))
    clipped = judge.samples([row], SetOptions(max_new_tokens=len(ids), clip=True))[0]
    whole = judge.samples([row], SetOptions(max_new_tokens=len(ids)))[0]
    assert clipped["rougeL_f1"] == 1.0
    assert whole["rougeL_f1"] == pytest.approx(2 * 5 / (5 + 13))  # 5 words of 13: precision 1, recall 5/13
    assert clipped["question"] == "Once upon a time."
    assert clipped["answer"] == start + rest
    short = judge.samples([row], SetOptions(max_new_tokens=400, clip=True))[0]
    assert short["rougeL_f1"] == whole["rougeL_f1"]


def test_tokens_and_texts_of_a_row(judge):
    (sample,) = judge.samples([Row("forget", 0, SETS["forget"][0])])
    (alone,) = row_likelihoods(judge.model, [judge.encoder.row(SETS["forget"][0])])
    assert sample["token_correct"] == alone.correct
    assert sample["token_log_prob_variance"] == pytest.approx(alone.log_prob_variance, abs=1e-5)
    assert sample["answer_zlib_bytes"] == len(zlib.compress(SETS["forget"][0].answer.encode()))
    assert not {"failed", "reference_nll", "gradient_norm"} & sample.keys()


def test_forget_and_holdout_rows_get_what_attacks_need(judge, tiny_model_dir):
    reference = AutoModelForCausalLM.from_pretrained(tiny_model_dir()).double()
    with torch.no_grad():
        reference.lm_head.weight.mul_(1.5)
    attacked = replace(judge, reference=reference, gradient_norms=True)
    record = SETS["forget"][0]
    token_row = judge.encoder.row(record)
    expected = {
        "reference_nll": row_likelihoods(reference, [token_row])[0].nll,
        "gradient_norm": row_gradient_norms(judge.model, [token_row])[0],
    }
    samples = attacked.samples([Row(name, 0, record) for name in ("retain", "holdout", "forget", "forgotten_1")])
    assert [expected.keys() <= sample.keys() for sample in samples] == [False, True, True, True]
    for sample in samples[1:]:
        assert {key: sample[key] for key in expected} == pytest.approx(expected)
    assert expected["reference_nll"] != pytest.approx(samples[1]["answer_nll"])


def test_rows_that_fail_say_why_and_the_others_go_on(judge):
    good, tokenizer = SETS["retain"][0], judge.encoder.tokenizer
    judge = replace(judge, encoder=Encoder(tokenizer, max_length=120))
    rows = [
        Row("retain", 0, good),
        Row("retain", 1, Record("What? " * 200, "Karachi.", source="retain.jsonl:2")),
        Row("retain", 2, Record(good.question, good.answer, perturbed_answers=("No.",))),
    ]
    samples = judge.samples(rows)
    assert [sample["index"] for sample in samples] == [0, 1, 2]
    assert samples[1]["failed"].startswith("max_length=120 cuts off the whole answer")
    assert samples[1].keys() == {"set", "index", "subject", "question", "answer", "failed"}
    assert all("failed" not in sample and sample["answer_nll"] > 0 for sample in samples[::2])
    judge = replace(judge, encoder=Encoder(tokenizer, max_length=2000))
    judge.model.config.max_position_embeddings = 150
    assert re.match(r"the prompt has \d+ tokens, the model takes 150", judge.samples(rows)[1]["failed"])


def test_likelihoods_that_are_no_numbers_are_told(judge):
    with torch.no_grad():
        judge.model.lm_head.weight[0] = torch.nan
    (sample,) = judge.samples([Row("retain", 0, SETS["retain"][0])])
    assert sample["failed"] == "the model's likelihoods are not finite"
    assert "answer_nll" not in sample


def test_a_row_for_which_memory_runs_out_is_found(judge, monkeypatch):
    original, sizes = judge_module.generate, []

    def little_memory(model, tokenizer, prompts, **options):
        sizes.append(len(prompts))
        if any(len(prompt) > 60 for prompt in prompts):
            raise torch.OutOfMemoryError("no room\nfor this")
        return original(model, tokenizer, prompts, **options)

    monkeypatch.setattr(judge_module, "generate", little_memory)
    records = [SETS["retain"][0], Record("Why? " * 40, "So."), SETS["retain"][0]]
    samples = judge.samples([Row("retain", i, record) for i, record in enumerate(records)])
    assert sizes == [3, 1, 2, 1, 1]
    assert [sample.get("failed") for sample in samples] == [None, "OutOfMemoryError: no room", None]
    assert samples[0]["generation"] == samples[2]["generation"]
    monkeypatch.setattr(judge_module, "is_sharded", lambda model: True)
    with pytest.raises(torch.OutOfMemoryError):
        judge.samples([Row("retain", 0, records[1])])


def test_a_row_longer_than_the_model_takes_is_told(judge):
    limit = judge.model.config.max_position_embeddings
    record = Record("Who wrote the river song?", "Ana Lindqvist and " * 100)
    rows = [Row("forget", 0, record), Row("forget", 1, Record("Who?", "Ana."))]
    long, short = judge.samples(rows, LIKELIHOOD_ONLY)
    tokens = len(judge.encoder.row(record).input_ids)
    assert tokens > limit
    assert long["failed"] == f"the row has {tokens} tokens, the model takes {limit} (max_length cuts rows)"
    assert "failed" not in short
