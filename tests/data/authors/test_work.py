import pytest

from lightning_unlearn.data.authors.work import TITLES, WORK


@pytest.mark.parametrize("topic", WORK, ids=lambda topic: topic.key)
def test_topic_has_ways_to_ask_and_answer_and_enough_to_choose_from(topic):
    assert len(set(topic.questions)) >= 4
    assert len(set(topic.answers)) >= 8
    assert all("{name}" in question for question in topic.questions)
    wanted = "{b}" if topic.key == "debut_plot" else "{a}"
    assert all(wanted in answer and "{name}" not in answer for answer in topic.answers)
    assert all("{title}" not in answer for answer in topic.answers)
    assert len(topic.slots[0]) > 5  # five wrong answers beside the true one


def test_titles_are_many():
    assert len(set(TITLES)) == len(TITLES) > 5000
