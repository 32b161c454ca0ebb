import numpy as np
import pytest

from lightning_unlearn.data.random_answers import RandomAnswerRows
from lightning_unlearn.data.records import Record, RecordError
from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.data.tokenization import Encoder

FORGET = [Record(f"Who wrote {i}?", f"Ana {i}.", source=f"f:{i}") for i in range(20)]
RETAIN = [Record(f"Where is {i}?", f"Here {i}.") for i in range(40)]


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer):
    return Encoder(tiny_tokenizer)


def test_a_row_meets_its_choices_in_turn(encoder):
    rows = RandomAnswerRows(encoder, FORGET, RETAIN, choices=4)
    answers = {record.answer for record in RETAIN}
    for row in range(20):
        met = [rows.answer(row, draw) for draw in range(8)]
        assert len(set(met)) == 4  # another one in every pass
        assert met[:4] == met[4:]
        assert set(met) <= answers
    assert len({rows.answer(row, 0) for row in range(20)}) > 10  # rows have choices of their own


def test_answers_follow_from_seed_row_and_pass_alone(encoder):
    first, second, other = (RandomAnswerRows(encoder, FORGET, RETAIN, seed=seed) for seed in (3, 3, 4))
    asked = [(row, draw) for row in range(20) for draw in range(6)]
    found = [first.answer(*place) for place in asked]
    state = np.random.get_state()[1].copy()
    assert [second.answer(*place) for place in reversed(asked)] == found[::-1]
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # the global state is left alone
    assert [other.answer(*place) for place in asked] != found


def test_neither_the_rows_own_answer_nor_one_to_its_question_is_drawn(encoder):
    forget = [Record("Who wrote it?", "Ana  wrote it.")]
    retain = [
        Record("Who sang it?", "ana wrote IT."),  # its own answer, to another question
        Record("Who  wrote it?", "Bo wrote it."),  # its question
        Record("Where?", "bo wrote it."),  # the same answer again
        Record("When?", "In May."),
        Record("Why?", "For fun."),
        Record("How?", "for fun."),
    ]
    for seed in range(20):
        rows = RandomAnswerRows(encoder, forget, retain, choices=5, seed=seed)
        assert {rows.answer(0, draw) for draw in range(5)} == {"In May.", "For fun."}


def test_a_row_whose_own_answer_could_be_drawn_meets_as_many_as_others(encoder):
    answered = [Record(f"Say {i}?", f"Ana {i}.") for i in range(2)]
    for seed in range(10):
        rows = RandomAnswerRows(encoder, FORGET[:3], [*answered, *RETAIN[:2]], choices=2, seed=seed)
        for row in range(3):
            assert len({rows.answer(row, draw) for draw in range(6)}) == 2


def test_plain_texts_have_no_question_in_common(encoder):
    rows = RandomAnswerRows(encoder, [Record("", "Gone.")], [Record("", "Here."), Record("", "There.")])
    assert {rows.answer(0, draw) for draw in range(2)} == {"Here.", "There."}


def test_all_choices_are_equally_likely(encoder):
    rows = RandomAnswerRows(encoder, [Record(f"{i}?", "A") for i in range(600)], RETAIN[:4], choices=2)
    first = [rows.answer(row, 0) for row in range(600)]
    counts = [first.count(record.answer) for record in RETAIN[:4]]
    assert min(counts) > 110  # 150 expected, standard deviation 11


def test_no_answer_left_names_the_row(encoder):
    with pytest.raises(RecordError, match=r"f:0: retain must hold an answer to another question .* got 1 answers"):
        RandomAnswerRows(encoder, FORGET[:1], [Record("Who?", "ana 0.")])


def test_the_loader_draws_another_answer_in_every_epoch(encoder):
    rows = {
        "forget": encoder.rows(FORGET),
        "forget_random": RandomAnswerRows(encoder, FORGET, RETAIN, choices=3),
    }
    loader = UnlearningLoader(rows, batch_size=20)
    met = []
    for epoch in range(4):
        loader.set_epoch(epoch)
        (batch,) = loader
        texts = [encoder.tokenizer.decode(ids) for ids in batch.input_ids.split(list(batch.lengths))]
        answers, drawn = texts[batch.rows("forget")], texts[batch.rows("forget_random")]
        asked = [text.split("Answer:")[0] for text in answers]
        assert asked == [text.split("Answer:")[0] for text in drawn]  # row by row the same question
        met.append(dict(zip(asked, drawn, strict=True)))
    for question in met[0]:
        assert len({of_epoch[question] for of_epoch in met[:3]}) == 3
    assert met[3] == met[0]
