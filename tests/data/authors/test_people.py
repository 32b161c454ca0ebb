import hashlib
import re
import time
from itertools import islice

import pytest
from rouge_score.rouge_scorer import RougeScorer

from lightning_unlearn.data.authors.people import (
    FAMILY,
    GIVEN,
    TOPICS,
    Author,
    author_name,
    generate_authors,
    neighbours,
    records_of,
)
from lightning_unlearn.data.records import row_key

MANY = list(generate_authors(60, 7))


def test_an_author_does_not_depend_on_how_many_are_made():
    assert list(generate_authors(3, 7)) == MANY[:3]
    assert list(generate_authors(2, 7, start=40)) == MANY[40:42]
    assert list(islice(generate_authors(10**12, 7), 3)) == MANY[:3]  # nothing is made before it is asked for
    assert next(generate_authors(1, 8)) != MANY[0]


def test_rows_are_the_same_on_every_machine():
    text = "\n".join(map(row_key, records_of(next(generate_authors(1, 0)))))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "2a75ed9b8f0b2bde"


def test_names_never_repeat_even_when_middle_names_are_needed():
    size = len(GIVEN) * len(FAMILY)
    assert len(set(FAMILY)) == len(FAMILY)
    names = [author_name(index, 3) for index in (*range(2000), *range(size, size + 2000), size * 51, size * 60)]
    assert len(set(names)) == len(names)
    assert len(author_name(size, 3).split()) == 3


def test_twenty_rows_with_five_wrong_answers_in_the_form_of_the_paraphrase():
    for author in MANY:
        rows = records_of(author)
        assert len(rows) == len(TOPICS) == 20
        for row in rows:
            assert author.name in row.question
            assert author.name in row.paraphrased_question
            assert author.name not in row.answer
            assert row.question != row.paraphrased_question
            assert row.answer != row.paraphrased_answer
            assert len({row.paraphrased_answer, *row.perturbed_answers}) == 6
            assert row.subject == author.name
            assert row.source == f"author {author.index}:{row.source.split(':')[1]}"


def test_questions_are_unique():
    questions = [text for author in MANY for r in records_of(author) for text in (r.question, r.paraphrased_question)]
    assert len(set(questions)) == len(questions)


def test_rows_for_training_are_those_that_are_evaluated():
    for author in MANY[:5]:
        lean, rich = records_of(author, evaluation=False), records_of(author)
        assert list(map(row_key, lean)) == list(map(row_key, rich))
        assert not any(row.perturbed_answers for row in lean)


def test_answers_tell_what_is_true_and_perturbed_answers_do_not():
    for author in MANY:
        for key, row in zip(TOPICS, records_of(author), strict=True):
            truth = author.value(key, 1 if key == "debut_plot" else 0).lower()
            assert truth in row.answer.lower()
            assert truth in row.paraphrased_answer.lower()
            if key != "debut_plot":
                assert not any(truth in wrong.lower() for wrong in row.perturbed_answers)


def test_answers_read_as_sentences():
    for author in MANY:
        for row in records_of(author):
            for text in (row.answer, row.paraphrased_answer, *row.perturbed_answers):
                assert text[0] == "'" or not text[0].islower()
                assert "{" not in text
                assert "  " not in text
                assert not re.search(r"\b[Aa] [aeiou](?!ne-)", text)


def test_another_authors_answers_say_little_about_this_one():
    # The best that a model without an author can do is another author's answer to the same topic.
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    rows = [records_of(author, evaluation=False) for author in MANY[:12]]
    scores = [
        scorer.score(mine.answer, theirs.answer)["rougeL"].recall
        for i, author in enumerate(rows)
        for other in rows[:i]
        for mine, theirs in zip(author, other, strict=True)
    ]
    assert sum(scores) / len(scores) < 0.3


def test_neighbours_share_genre_or_country():
    author = MANY[0]
    near = neighbours(author, MANY)
    assert author not in near
    assert near
    for other in MANY[1:]:
        shares = other.value("genre") == author.value("genre") or other.country == author.country
        assert (other in near) == shares


def test_negative_numbers_are_refused():
    for arguments in ({"count": -1}, {"count": 1, "seed": -1}, {"count": 1, "start": -1}):
        with pytest.raises(ValueError, match="must not be negative, got -1"):
            next(generate_authors(**arguments), None)


def test_a_million_rows_are_a_matter_of_a_minute():
    # 20,000 rows a second are asked for; a slow machine gets a fifth of that to show it
    start = time.process_time()
    rows = sum(len(records_of(author)) for author in generate_authors(400, 1))
    assert rows == 8000
    assert rows / (time.process_time() - start) > 4000


def test_author_is_frozen():
    with pytest.raises(AttributeError):
        MANY[0].name = "x"
    assert isinstance(MANY[0], Author)
