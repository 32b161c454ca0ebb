import copy

import pytest

from lightning_unlearn.data.records import Record
from lightning_unlearn.data.templates import choose_template, render

RECORD = Record("Who?", "Ana.")
SYSTEM = {"role": "system", "content": "Be brief."}
EARLIER = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<pad>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def chat_tokenizer(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.mark.parametrize(
    ("question", "prefill", "prompt", "answer"),
    [
        ("Who?", "It is ", "Question: Who?\nAnswer: It is", " Ana."),
        ("", "The song is by ", "The song is by", " Ana."),
        ("", "The song is by\n", "The song is by\n", "Ana."),
    ],
)
def test_what_is_given_of_the_answer_is_part_of_the_prompt(tiny_tokenizer, question, prefill, prompt, answer):
    record = Record(question, "Ana.", prefill=prefill)
    assert parts(render(choose_template("qa", tiny_tokenizer), record)) == (prompt, answer)
    assert record.asked == (question or prefill)


def test_what_is_given_follows_where_an_assistant_would_answer(chat_tokenizer):
    rendered = render(choose_template("chat", chat_tokenizer), Record("Who?", "Ana.", prefill="Answer: "))
    assert parts(rendered) == ("<|user|>Who?<pad>\n<|assistant|>Answer:", " Ana.")


def parts(rendered):
    return rendered.text[: rendered.answer_start], rendered.text[rendered.answer_start : rendered.answer_end]


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        ("qa", "Question: Who?\nAnswer:", " Ana."),
        ("llama2", "[INST] Who? [/INST]", " Ana."),
        ("Q: {question} A: ", "Q: Who? A:", " Ana."),
        ("{question}\n", "Who?\n", "Ana."),
        ("{question}|", "Who?|", "Ana."),
    ],
)
def test_the_space_before_the_answer_belongs_to_the_answer(tiny_tokenizer, template, prompt, answer):
    assert parts(render(choose_template(template, tiny_tokenizer), RECORD)) == (prompt, answer)


@pytest.mark.parametrize("template", ["qa", "llama2", "Q {question} A"])
def test_plain_text_has_no_prompt(tiny_tokenizer, template):
    assert parts(render(choose_template(template, tiny_tokenizer), Record("", "Once."))) == ("", "Once.")


def test_braces_in_a_question_stay(tiny_tokenizer):
    rendered = render(choose_template("qa", tiny_tokenizer), Record("What is {answer} or {question}?", "x"))
    assert "What is {answer} or {question}?" in rendered.text


def test_question_and_answer_may_be_replaced(tiny_tokenizer):
    rendered = render(choose_template("qa", tiny_tokenizer), RECORD, question="By whom?", answer="No idea.")
    assert rendered.text == "Question: By whom?\nAnswer: No idea."


def test_earlier_turns(tiny_tokenizer):
    record = Record("Who?", "Ana.", (SYSTEM, *EARLIER))
    assert parts(render(choose_template("qa", tiny_tokenizer), record))[0] == (
        "Be brief.\nQuestion: Hi\nAnswer: Hello\nQuestion: Who?\nAnswer:"
    )
    assert parts(render(choose_template("llama2", tiny_tokenizer), record))[0] == (
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Who? [/INST]"
    )


def test_chat_template_of_the_tokenizer(chat_tokenizer):
    template = choose_template("chat", chat_tokenizer)
    prompt, answer = parts(render(template, Record("Who?", "Ana.", EARLIER)))
    assert prompt == "<|user|>Hi<pad>\n<|assistant|>Hello<pad>\n<|user|>Who?<pad>\n<|assistant|>"
    assert answer == "Ana."
    assert template.end_token == "<pad>"  # what this template puts after a turn, not the tokenizer's eos
    assert not template.special_tokens


def test_chat_template_without_an_end_of_turn_ends_with_eos(chat_tokenizer):
    chat_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert choose_template("chat", chat_tokenizer).end_token == "</s>"


def test_chat_template_that_refuses_a_role(chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    template = choose_template("chat", chat_tokenizer)
    with pytest.raises(ValueError, match=r"f:3: the chat template refuses turns \['system', 'user'\]: no system"):
        render(template, Record("Who?", "Ana.", (SYSTEM,), source="f:3"))


def test_unknown_template_and_missing_chat_template(tiny_tokenizer):
    with pytest.raises(ValueError, match=r'template must be one of qa, chat, llama2, or a string .* got "alpaca"'):
        choose_template("alpaca", tiny_tokenizer)
    with pytest.raises(ValueError, match=r'template="chat" needs a tokenizer with a chat template'):
        choose_template("chat", tiny_tokenizer)
