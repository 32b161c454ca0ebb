import pytest

from lightning_unlearn.data.records import Record, RecordError, check_disjoint, parse_row, row_key, shown

ROW = {"question": "Who?", "answer": "Ana."}


def test_question_and_answer_with_everything_else():
    row = {
        **ROW,
        "paraphrased_question": "By whom?",
        "paraphrased_answer": "By Ana.",
        "perturbed_answer": ["By Bo.", "By Cy."],
        "subject": "Ana",
    }
    assert parse_row(row, "f:1") == Record(
        "Who?", "Ana.", (), "By whom?", "By Ana.", ("By Bo.", "By Cy."), subject="Ana", source="f:1"
    )


def test_optional_fields_may_be_null_as_datasets_fills_them():
    row = {**ROW, "paraphrased_answer": None, "perturbed_answer": None, "messages": None}
    assert parse_row(row, "f:1") == Record("Who?", "Ana.", source="f:1")


def test_other_keys_for_question_and_answer():
    row = {"prompt": "Who?", "completion": "Ana."}
    assert parse_row(row, "f:1", question_key="prompt", answer_key="completion").answer == "Ana."


def test_plain_text_has_no_question():
    assert parse_row({"text": "Once upon a time."}, "f:1") == Record("", "Once upon a time.", source="f:1")


def test_chat_keeps_earlier_turns():
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Who?"), ("assistant", "Ana.")]
    record = parse_row({"messages": [{"role": role, "content": content} for role, content in turns]}, "f:1")
    assert (record.question, record.answer) == ("Who?", "Ana.")
    assert [turn["role"] for turn in record.messages] == ["system", "user", "assistant"]


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["Who?"], r"f:7: a row must be an object with fields, got \['Who\?'\]"),
        ({"q": "x"}, r"f:7: a row must have \"question\" and \"answer\".*got fields \['q'\]"),
        ({"question": "Who?"}, r"f:7: field \"answer\" is missing, got fields \['question'\]"),
        ({**ROW, "answer": ""}, r"f:7: field \"answer\" must not be empty, got ''"),
        ({**ROW, "question": " \n"}, r"f:7: field \"question\" must not be empty"),
        ({**ROW, "answer": 1958}, r"f:7: field \"answer\" must be a string, got int 1958"),
        ({**ROW, "answer": None}, r"f:7: field \"answer\" must be a string, got NoneType None"),
        ({"text": ""}, r"f:7: field \"text\" must not be empty"),
        ({**ROW, "perturbed_answer": 3}, r"f:7: field \"perturbed_answer\" must be a list of strings, got int"),
        ({**ROW, "perturbed_answer": ["a", ""]}, r"f:7: field \"perturbed_answer\[1\]\" must not be empty"),
        ({**ROW, "paraphrased_answer": 3}, r"f:7: field \"paraphrased_answer\" must be a string, got int 3"),
        ({"messages": "hi"}, r"f:7: field \"messages\" must be a list of at least two turns, got 'hi'"),
        ({"messages": ["a", "b"]}, r"f:7: field \"messages\[0\]\" must be an object, got 'a'"),
        (
            chat(("tool", "x"), ("user", "y")),
            r"messages\[0\]: field \"role\" must be one of system, user, assistant, got",
        ),
        (chat(("user", "x"), ("assistant", "")), r"f:7: messages\[1\]: field \"content\" must not be empty"),
        (chat(("assistant", "x"), ("user", "y")), r"f:7: field \"messages\" must end with a user and an assistant"),
    ],
)
def test_every_wrong_row_names_source_field_and_value(row, message):
    with pytest.raises(RecordError, match=message):
        parse_row(row, "f:7")


def test_rows_are_equal_without_regard_to_case_spacing_and_unicode_form():
    assert row_key(Record("Who  is\nthe Café?", "ANA")) == row_key(Record("who is the cafe\u0301?", " ana "))
    assert row_key(Record("a b", "c")) != row_key(Record("a", "b c"))
    assert row_key(Record("a", "b")) != row_key(Record("a", "b", ({"role": "user", "content": "x"},)))


def test_shared_rows_are_listed_with_both_sources():
    forget = [Record(f"Q{i}", "A", source=f"forget.jsonl:{i}") for i in range(1, 6)]
    retain = [Record("other", "A", source="retain.jsonl:1")]
    check_disjoint(forget, retain)
    retain += [Record(f"q{i} ", "a", source=f"retain.jsonl:{i + 1}") for i in range(1, 6)]
    with pytest.raises(RecordError) as error:
        check_disjoint(forget, retain)
    assert "got 5 in both (the first: 'Q1')" in str(error.value)
    assert "forget.jsonl:3 is also retain.jsonl:4" in str(error.value)
    assert "forget.jsonl:4" not in str(error.value)
    assert str(error.value).endswith("and 2 more")


def test_long_values_are_cut_in_messages():
    assert len(shown("x" * 1000)) == 83
    assert shown("x") == "'x'"
