from itertools import pairwise

import pytest

from lightning_unlearn.data.fictitious import FictitiousAuthors
from lightning_unlearn.data.records import row_key


def test_demo_size(tiny_tokenizer):
    data = FictitiousAuthors(tokenizer=tiny_tokenizer)
    data.setup("fit")
    assert {role: len(rows) for role, rows in data.records().items()} == {"forget": 40, "retain": 160}
    sets = data.evaluation_sets()
    assert list(sets) == ["forget", "retain", "real_authors", "world_facts"]
    assert (len(sets["forget"]), len(sets["retain"])) == (40, 160)
    assert all(len(r.perturbed_answers) == 5 and r.paraphrased_answer for r in (*sets["forget"], *sets["retain"]))
    assert all(len(r.perturbed_answers) == 3 for r in (*sets["real_authors"], *sets["world_facts"]))
    general = len(sets["real_authors"]) + len(sets["world_facts"])
    assert len(data.training_records()) == 200 + general
    assert len(data.retrain_records()) == 160 + general
    assert next(iter(data.train_dataloader())).roles == ("forget", "retain", "forget_idk", "retain_idk")


def test_evaluated_rows_are_rows_of_the_roles(tiny_tokenizer):
    data = FictitiousAuthors(tokenizer=tiny_tokenizer, authors=12, forget_authors=5, evaluation_authors=3)
    for role in ("forget", "retain"):
        rows = {row_key(record) for record in data.records()[role]}
        assert len(data.evaluation_sets()[role]) == 60
        assert all(row_key(record) in rows for record in data.evaluation_sets()[role])


def test_limits_also_limit_what_is_evaluated(tiny_tokenizer):
    data = FictitiousAuthors(tokenizer=tiny_tokenizer, max_forget_rows=3, max_retain_rows=30, evaluation_authors=1)
    assert {role: len(rows) for role, rows in data.records().items()} == {"forget": 3, "retain": 30}
    assert [row_key(r) for r in data.evaluation_sets()["forget"]] == [row_key(r) for r in data.records()["forget"]]
    assert [row_key(r) for r in data.evaluation_sets()["retain"]] == [row_key(r) for r in data.records()["retain"][:20]]
    with pytest.raises(ValueError, match="max_retain_rows must be at least 1, got 0"):
        FictitiousAuthors(tokenizer=tiny_tokenizer, max_retain_rows=0)


def test_forgotten_authors_are_the_last_and_never_kept(tiny_tokenizer):
    data = FictitiousAuthors(tokenizer=tiny_tokenizer, authors=7, forget_authors=3)
    assert [author.index for author in data.people("forget")] == [4, 5, 6]
    assert [author.index for author in data.people("retain")] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match='role must be "forget" or "retain", got "idk"'):
        data.people("idk")


def test_worlds_differ_and_repeat(tiny_tokenizer):
    first, again, other = (FictitiousAuthors(tokenizer=tiny_tokenizer, world=world) for world in (1, 1, 2))
    assert first.records() == again.records()
    assert first.records() != other.records()


def test_neighbours_are_kept_authors_each_once(tiny_tokenizer):
    data = FictitiousAuthors(tokenizer=tiny_tokenizer, authors=60, forget_authors=3)
    near = [record.subject for record in data.neighbours()]
    kept = {author.name for author in data.people("retain")}
    assert near
    assert set(near) < kept
    assert len(near) == 20 * len(set(near))
    starts = [name for name, following in pairwise([*near, None]) if name != following]
    assert len(starts) == len(set(starts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forget_authors": 10}, r"forget_authors must be in \[1, authors = 10\), got 10"),
        ({"forget_authors": 0}, "forget_authors must be in"),
        ({"evaluation_authors": 0}, "evaluation_authors must be at least 1, got 0"),
        ({"world": -1}, "world must not be negative, got -1"),
        ({"holdout_authors": -1}, "holdout_authors must not be negative, got -1"),
    ],
)
def test_numbers_out_of_range(tiny_tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        FictitiousAuthors(tokenizer=tiny_tokenizer, **options)


def test_holdout_authors_are_of_no_world_that_is_trained_on(tiny_tokenizer):
    data = FictitiousAuthors(tokenizer=tiny_tokenizer, holdout_authors=2)
    sets = data.evaluation_sets()
    assert list(sets) == ["forget", "retain", "real_authors", "world_facts", "holdout"]
    assert len({record.subject for record in sets["holdout"]}) == 2
    assert not data.set_options()["holdout"].generate  # attacks read likelihoods alone
    assert len(sets["holdout"]) == 40
    assert all(record.paraphrased_answer for record in sets["holdout"])
    trained = {row_key(record) for record in data.training_records()}
    assert not any(row_key(record) in trained for record in sets["holdout"])
    plain = FictitiousAuthors(tokenizer=tiny_tokenizer)
    assert data.training_records() == plain.training_records()
    assert {name: sets[name] for name in plain.evaluation_sets()} == plain.evaluation_sets()
