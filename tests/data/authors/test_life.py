import pytest

from lightning_unlearn.data.authors.life import CITIES, LIFE


@pytest.mark.parametrize("topic", LIFE, ids=lambda topic: topic.key)
def test_topic_has_ways_to_ask_and_answer_and_enough_to_choose_from(topic):
    assert len(set(topic.questions)) >= 4
    assert len(set(topic.answers)) >= 8
    assert all("{name}" in question for question in topic.questions)
    assert all("{a}" in answer and "{name}" not in answer for answer in topic.answers)
    for slot in topic.slots:
        assert len(set(slot)) == len(slot)
    assert all(len(slot) > 4 for slot in topic.slots)
    assert len(topic.slots[0]) > 5  # five wrong answers beside the true one


def test_cities_name_their_country():
    assert all(city.count(", ") == 1 for city in CITIES)
