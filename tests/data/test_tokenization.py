import copy
import warnings

import numpy as np
import pytest

from lightning_unlearn.data.records import Record, RecordError
from lightning_unlearn.data.tokenization import Encoder

RECORD = Record("Who wrote the river song?", "Ana Lindqvist in 1987.", source="f:1")
EOS, BOS = 1, 0


def labelled(encoder, row):
    return encoder.tokenizer.decode(row.targets)


def full(row):
    """The whole sequence: what is read, and the last target."""
    return [*row.input_ids, row.targets[-1]]


@pytest.mark.parametrize("template", ["qa", "llama2", "{question}|"])
def test_labels_are_the_answer_and_one_eos(tiny_tokenizer, template):
    encoder = Encoder(tiny_tokenizer, template=template)
    row = encoder.row(RECORD)
    assert labelled(encoder, row).strip() == "Ana Lindqvist in 1987.</s>"
    assert (row.targets == EOS).sum() == 1
    assert EOS not in row.input_ids  # a target only
    assert row.input_ids[0] == BOS
    assert (row.input_ids == BOS).sum() == 1


def test_positions_predict_the_targets(tiny_tokenizer):
    row = Encoder(tiny_tokenizer).row(RECORD)
    np.testing.assert_array_equal(np.array(full(row))[row.target_positions + 1], row.targets)
    assert row.input_ids.dtype == row.targets.dtype == row.target_positions.dtype == np.int64


def test_prompt_is_what_training_reads_before_the_first_target(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer)
    for answer in ("Ana.", "1987", "Zygmunt", "«quoted»"):
        row = encoder.row(RECORD, answer=answer)
        assert encoder.prompt(RECORD) == list(row.input_ids[: row.target_positions[0] + 1])


def merging(text, **special):
    """A BPE tokenizer without pre-tokenisation: everything that repeats merges, also across words."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([text] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **special)


def test_a_token_across_the_border_is_labelled():
    # "b c" is one token of the pair "a b|c d": counting the prompt's own tokens would put the border elsewhere
    tokenizer = merging("a:b")
    encoder = Encoder(tokenizer, template="{question}:")
    row = encoder.row(Record("a", "b"))
    assert tokenizer.convert_ids_to_tokens(full(row)) == ["a:b", "</s>"]
    assert list(row.targets) == [tokenizer.eos_token_id]  # the merged token is first: nothing predicts it
    row = encoder.row(Record("ba", "b"))
    assert tokenizer.convert_ids_to_tokens(row.targets) == ["a:b", "</s>"]
    assert list(row.target_positions) == [0, 1]


def test_pad_token_that_is_the_eos_token_keeps_the_eos_target(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    row = Encoder(tokenizer).row(RECORD)
    assert row.targets[-1] == EOS
    np.testing.assert_array_equal(row.targets, Encoder(tiny_tokenizer).row(RECORD).targets)


def test_tokenizer_that_appends_eos_gets_one(tiny_tokenizer):
    from tokenizers import processors

    tokenizer = copy.deepcopy(tiny_tokenizer)
    special = [("<s>", 0), ("</s>", 1)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=special
    )
    assert tokenizer("a").input_ids[-1] == EOS
    encoder, plain = Encoder(tokenizer), Encoder(tiny_tokenizer)
    assert full(encoder.row(RECORD)) == full(plain.row(RECORD))
    assert encoder.prompt(RECORD) == plain.prompt(RECORD)


def test_bos_is_never_doubled(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "<s>{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    for template in ("chat", "<s>[INST] {question} [/INST] "):
        encoder = Encoder(tokenizer, template=template)
        assert list(encoder.row(RECORD).input_ids).count(BOS) == 1
        assert encoder.prompt(RECORD).count(BOS) == 1
        text = encoder.row(Record("", "Once upon a time."))
        assert list(text.input_ids).count(BOS) == 1
    assert list(Encoder(tokenizer).row(Record("", "<s>Once.")).input_ids).count(BOS) == 1


def test_plain_text_is_labelled_from_its_first_token(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer)
    row = encoder.row(Record("", "Once upon a time."))
    assert labelled(encoder, row) == "Once upon a time.</s>"
    assert encoder.prompt(Record("", "Once upon a time.")) == [BOS]


def test_plain_text_without_bos_is_labelled_from_its_second_token():
    tokenizer = merging("xy")
    tokenizer.bos_token = None
    encoder = Encoder(tokenizer)
    row = encoder.row(Record("", "yx"))
    assert tokenizer.convert_ids_to_tokens(row.targets) == ["x", "</s>"]
    assert encoder.prompt(Record("", "yx")) == [tokenizer.eos_token_id]


def test_max_length_counts_the_eos(tiny_tokenizer):
    length = len(full(Encoder(tiny_tokenizer).row(RECORD)))
    exact = Encoder(tiny_tokenizer, max_length=length)
    assert exact.row(RECORD).targets[-1] == EOS
    cut = Encoder(tiny_tokenizer, max_length=length - 1).row(RECORD)
    np.testing.assert_array_equal(cut.targets, exact.row(RECORD).targets[:-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact.rows([RECORD] * 3)
    with pytest.warns(UserWarning, match=rf"max_length={length - 1} cuts the answers of 2 of 3 rows") as caught:
        Encoder(tiny_tokenizer, max_length=length - 1).rows([RECORD, Record("Who?", "A."), RECORD])
    assert len(caught) == 1


def test_an_answer_that_is_cut_off_whole_is_an_error(tiny_tokenizer):
    prompt = len(Encoder(tiny_tokenizer).prompt(RECORD))
    assert len(Encoder(tiny_tokenizer, max_length=prompt + 1).row(RECORD).targets) == 1
    with pytest.raises(RecordError, match=rf"f:1: max_length={prompt} cuts off the whole answer"):
        Encoder(tiny_tokenizer, max_length=prompt).rows([RECORD])


def test_rows_are_those_of_single_records(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer)
    records = [RECORD, Record("", "Plain text."), Record("Wo?", "Ünïcödé 日本 🎈.")]
    for row, record in zip(encoder.rows(records, progress=True), records, strict=True):
        assert full(row) == full(encoder.row(record))
    assert labelled(encoder, encoder.row(records[2])) == " Ünïcödé 日本 🎈.</s>"


def test_another_question_and_answer(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer)
    row = encoder.row(RECORD, question="Why?", answer="I'm not sure.")
    assert full(row) == full(encoder.row(Record("Why?", "I'm not sure.")))
    assert encoder.prompt(RECORD, question="Why?") == encoder.prompt(Record("Why?", "x"))


def test_unusable_tokenizers(tiny_tokenizer):
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"tokenizer must be a fast one: .* got Slow"):
        Encoder(Slow())
    endless = copy.deepcopy(tiny_tokenizer)
    endless.eos_token = None
    with pytest.raises(ValueError, match="tokenizer must have an eos token"):
        Encoder(endless)
    with pytest.raises(ValueError, match="max_length must be at least 2, got 1"):
        Encoder(tiny_tokenizer, max_length=1)


def test_real_tofu_answers_are_labelled_whole(tofu_dir, tiny_tokenizer):
    from lightning_unlearn.data.readers import read_records

    encoder = Encoder(tiny_tokenizer, max_length=2048)
    records = read_records(tofu_dir / "forget05.json")
    for record, row in zip(records, encoder.rows(records), strict=True):
        assert labelled(encoder, row) == f" {record.answer.strip()}</s>" or record.answer in labelled(encoder, row)


@pytest.mark.parametrize("template", ["qa", "chat"])
@pytest.mark.parametrize("question", ["", "Who wrote the river song?"])
def test_what_is_given_of_an_answer_is_read_and_not_labelled(tiny_tokenizer, template, question):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    encoder = Encoder(tokenizer, template=template)
    record = Record(question, "Ana Lindqvist.", prefill="It was written by ")
    row = encoder.row(record)
    assert labelled(encoder, row).strip() == "Ana Lindqvist.</s>"
    assert tokenizer.decode(row.input_ids).count("It was written by Ana") == 1
    assert encoder.prompt(record) == list(row.input_ids[: row.target_positions[0] + 1])
    assert row.input_ids[0] == BOS
    assert (row.input_ids == BOS).sum() == 1
