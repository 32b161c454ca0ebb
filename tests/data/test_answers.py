import numpy as np

from lightning_unlearn.data.answers import AnswerRows
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.tokenization import Encoder


class Numbers(AnswerRows):
    asked = 0

    def answer(self, row, draw):
        self.asked += 1
        return f"{row}{draw}"


def test_tokens_are_the_question_with_the_answer_of_the_pass(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer)
    rows = Numbers(encoder, [Record("Q?", "A"), Record("Who?", "B")])
    for row, draw, question in ((0, 0, "Q?"), (1, 2, "Who?")):
        found, expected = rows(row, draw), encoder.row(Record(question, f"{row}{draw}"))
        for name in ("input_ids", "target_positions", "targets"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_rows_are_kept_up_to_a_number(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(Numbers, "KEPT", 2)
    rows = Numbers(Encoder(tiny_tokenizer), [Record("Q?", "A")])
    assert rows(0, 0) is rows(0, 0)
    assert rows.asked == 1
    for draw in (1, 2):
        rows(0, draw)
    assert len(rows._made) <= 2
    np.testing.assert_array_equal(rows(0, 0).targets, Encoder(tiny_tokenizer).row(Record("Q?", "00")).targets)
    assert rows.asked == 4
