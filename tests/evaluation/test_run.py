"""Running a model over sets: samples against their definitions, resuming, choice of rows."""

from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_unlearn.data.records import Record
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation import closer_look, judge, tofu
from lightning_unlearn.evaluation.log import read_log, read_samples, redact, write_log
from lightning_unlearn.evaluation.run import EvaluationStopped, evaluate, select_rows, substitutes
from lightning_unlearn.metrics.rouge import rouge_recall
from lightning_unlearn.metrics.token_entropy import token_entropy

OPTIONS = {"max_new_tokens": 6, "sentence_encoder": "lexical", "entailment": "lexical", "progress": False}


def records(name, count):
    return [
        Record(
            question=f"Who wrote {name} number {i}" + " of the river song" * (i % 3) + "?",
            answer=f"Ana Lindqvist, 19{i}7.",
            paraphrased_answer="" if name == "world_facts" else f"It is by Ana Lindqvist, 19{i}7.",
            perturbed_answers=tuple(f"Bo Ek, 18{i}{k}." for k in range(1 + i % 2)),
            subject="Ana Lindqvist",
        )
        for i in range(count)
    ]


SETS = {name: records(name, 5) for name in ("forget", "retain", "real_authors", "world_facts")}


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir())


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer):
    return Encoder(tiny_tokenizer)


@pytest.fixture(scope="module")
def log(model, encoder):
    return evaluate(model, encoder, SETS, batch_size=2, **OPTIONS)


def nll(model, encoder, record, answer):
    row = encoder.row(record, answer=answer)
    with torch.no_grad():
        rows = model(torch.from_numpy(row.input_ids)[None]).logits[0].double().log_softmax(-1)
    picked = rows[torch.from_numpy(row.target_positions), torch.from_numpy(row.targets)]
    return -picked.sum().item(), len(picked)


def test_samples_are_in_order_and_follow_their_definitions(model, encoder, log):
    for name, rows in log.items():
        assert [sample["index"] for sample in rows] == list(range(5))
        for record, sample in zip(SETS[name], rows, strict=True):
            assert (sample["set"], sample["subject"]) == (name, "Ana Lindqvist")
            assert (sample["question"], sample["answer"]) == (record.question, record.answer)
            value, tokens = nll(model, encoder, record, record.answer)
            assert sample["answer_nll"] == pytest.approx(value, abs=1e-3)
            assert sample["answer_tokens"] == tokens == len(sample["token_text"]) == len(sample["token_log_prob"])
            value, tokens = nll(model, encoder, record, record.paraphrased_answer or record.answer)
            assert sample["paraphrase_nll"] == pytest.approx(value, abs=1e-3)
            assert sample["paraphrase_tokens"] == tokens
            wrong = [nll(model, encoder, record, text) for text in record.perturbed_answers]
            assert sample["perturbed_nll"] == pytest.approx([value for value, _ in wrong], abs=1e-3)
            assert sample["perturbed_tokens"] == [tokens for _, tokens in wrong]
            assert -sum(sample["token_log_prob"]) == pytest.approx(sample["answer_nll"], abs=1e-3)
            assert "".join(sample["token_text"]).strip().startswith("Ana Lindqvist, 19")
            assert sample["token_text"][-1] == "</s>"
            assert min(sample["token_predictive_entropy"]) > 0


def test_generation_and_texts(model, encoder, log):
    tokenizer = encoder.tokenizer
    for name, rows in log.items():
        for record, sample in zip(SETS[name], rows, strict=True):
            ids = encoder.prompt(record)
            for _ in range(6):
                with torch.no_grad():
                    best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
                if best == tokenizer.eos_token_id:
                    break
                ids.append(best)
            new = ids[len(encoder.prompt(record)) :]
            assert sample["generation"] == tokenizer.decode(new, skip_special_tokens=True).strip()
            assert sample["token_entropy"] == pytest.approx(token_entropy(new))
            assert sample["rougeL_recall"] == rouge_recall(sample["generation"], record.answer).rougeL
            assert isinstance(sample["entailment"], bool)
            assert 0 <= sample["cosine_similarity"] <= 1


def test_probability_is_among_the_options_only_where_the_protocol_says_so(log):
    for name, rows in log.items():
        assert [sample["probability"] for sample in rows] == pytest.approx(tofu.probabilities(rows, name).tolist())
    plain = tofu.answer_probability(
        torch.tensor([log["retain"][0]["answer_nll"]]), torch.tensor([log["retain"][0]["answer_tokens"]])
    )
    assert log["retain"][0]["probability"] == pytest.approx(plain.item())
    assert log["world_facts"][0]["probability"] > 10 * plain.item()


def test_every_aggregate_follows_from_the_log(log, tmp_path):
    scores = tofu.scores(log, log) | closer_look.scores(log)
    assert scores["forget_quality"] == 1.0
    assert 0 <= scores["closer_look/forget_efficacy"] <= 1
    write_log({name: [redact(sample) for sample in rows] for name, rows in log.items()}, tmp_path / "masked.jsonl")
    masked = read_log(tmp_path / "masked.jsonl")
    assert tofu.scores(masked, masked) | closer_look.scores(masked) == scores


def test_an_interrupted_run_continues_and_skips_what_is_done(model, encoder, log, tmp_path, monkeypatch):
    output = tmp_path / "samples.jsonl"
    made, original = [], judge.generate

    def stop_after_two(*arguments, **options):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(len(arguments[2]))
        return original(*arguments, **options)

    monkeypatch.setattr(judge, "generate", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, encoder, SETS, batch_size=1, output=output, **OPTIONS)
    assert made == [1, 1]  # rounds of one batch of one row
    with output.open("a") as stream:
        stream.write('{"set": "retain", "ind')
    made.clear()
    monkeypatch.setattr(judge, "generate", lambda *a, **o: made.append(len(a[2])) or original(*a, **o))
    resumed = evaluate(model, encoder, SETS, batch_size=1, output=output, **OPTIONS)
    assert sum(made) == 18
    assert_same(resumed, log)
    assert_same(read_log(output), log)
    made.clear()
    assert_same(evaluate(model, encoder, SETS, output=output, **OPTIONS), log)
    assert made == []


def assert_same(left, right):
    """Compare logs up to rounding: batches of another size round otherwise."""
    assert left.keys() == right.keys()
    for name in right:
        for a, b in zip(left[name], right[name], strict=True):
            assert a.keys() == b.keys()
            for key in b:
                numeric = isinstance(b[key], float) or (
                    isinstance(b[key], list) and isinstance((b[key] or [""])[0], float)
                )
                assert a[key] == (pytest.approx(b[key], abs=1e-3) if numeric else b[key])


def test_finished_samples_of_other_records_are_refused_and_masked_ones_are_not(model, encoder, log, tmp_path):
    samples = [redact(sample) for sample in log["forget"]]
    again = evaluate(model, encoder, {"forget": SETS["forget"]}, done=samples, **OPTIONS)
    assert again == {"forget": samples}
    with pytest.raises(ValueError, match="same records, got another question in row 0 of forget"):
        evaluate(model, encoder, {"forget": SETS["retain"]}, done=log["forget"], **OPTIONS)
    with pytest.raises(ValueError, match="same records"):  # a mask tells lengths apart, and no more
        evaluate(model, encoder, {"forget": SETS["world_facts"]}, done=samples, **OPTIONS)


def test_it_stops_between_rounds_when_told(model, encoder, tmp_path):
    output, answers = tmp_path / "samples.jsonl", iter([False, False, True])
    with pytest.raises(EvaluationStopped, match="stopped with 6 of 20 rows finished"):
        evaluate(model, encoder, SETS, batch_size=3, output=output, stop=lambda: next(answers), **OPTIONS)
    prompts = [len(encoder.prompt(SETS[s["set"]][s["index"]])) for s in read_samples(output)]
    assert len(prompts) == 6
    assert prompts == sorted(prompts, reverse=True)  # memory runs out early or never
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(model, encoder, SETS, batch_size=0, **OPTIONS)


def test_max_rows_and_progress(model, encoder, log, capsys):
    seen = []
    few = evaluate(model, encoder, SETS, max_rows=2, on_samples=seen.extend, **{**OPTIONS, "progress": True})
    assert {name: [sample["index"] for sample in rows] for name, rows in few.items()} == {name: [0, 2] for name in SETS}
    assert len(seen) == 8
    assert "8/8" in capsys.readouterr().err
    evaluate(model, encoder, SETS, max_rows=1, **OPTIONS)
    assert capsys.readouterr().err == ""


def test_without_judging_models_their_metrics_are_left_out(model, encoder):
    options = {**OPTIONS, "sentence_encoder": None, "entailment": None, "max_rows": 1}
    log = evaluate(model, encoder, SETS, **options)
    assert not {"cosine_similarity", "entailment"} & log["forget"][0].keys()
    assert tofu.model_utility(log) >= 0
    assert closer_look.scores(log) == {}


def test_entailment_is_asked_in_the_direction_of_the_set(model, encoder, monkeypatch):
    asked = {}

    def answers_yes(premises, hypotheses):
        asked[premises[0] == "Ana Lindqvist, 1907."] = hypotheses
        return ["entailment"] * len(premises)

    monkeypatch.setattr("lightning_unlearn.metrics.entailment.MINIMUM_ROUGE", 0.0)
    for name, target_is_premise in (("forget", False), ("retain", True)):
        asked.clear()
        evaluate(model, encoder, {name: SETS[name][:1]}, **{**OPTIONS, "entailment": answers_yes})
        assert list(asked) == [target_is_premise]


@pytest.mark.parametrize("rows", [1, 7, 40, 400])
def test_select_rows_is_nested_spread_and_complete(rows):
    assert select_rows(rows, None) == select_rows(rows, rows) == select_rows(rows, 10**9) == list(range(rows))
    for few in range(1, rows):
        assert set(select_rows(rows, few)) < set(select_rows(rows, few + 1))
    edges = [-1, *select_rows(rows, max(1, rows // 4)), rows]
    assert max(right - left for left, right in pairwise(edges)) <= 8


def test_select_rows_does_not_fall_in_with_a_period():
    # 400 rows, 20 questions an author: 40 rows see every kind of question and every author
    chosen = select_rows(400, 40)
    assert {row % 20 for row in chosen} == set(range(20))
    assert {row // 20 for row in chosen} == set(range(20))
    with pytest.raises(ValueError, match="max_rows must be at least 1, got 0"):
        select_rows(4, 0)


def test_substitutes_name_what_is_not_a_loaded_model():
    assert substitutes("org/encoder", "org/nli") == {"cosine_similarity": None, "entailment": None}
    assert substitutes("lexical", records) == {
        "cosine_similarity": "lexical: cosine of bags of words",
        "entailment": "callable: records",
    }
