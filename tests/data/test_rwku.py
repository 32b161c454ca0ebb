"""RWKU's subsets, of some people, as roles and evaluation sets."""

import copy

import pytest

from lightning_unlearn.data.records import RecordError
from lightning_unlearn.data.rwku import RWKU
from tests import published


@pytest.fixture
def folder(tmp_path):
    return published.rwku(tmp_path)


def test_sets_are_those_of_the_named_people(folder, tiny_tokenizer):
    data = RWKU(subjects=["ana lindqvist"], data=folder, tokenizer=tiny_tokenizer)
    assert {role: len(rows) for role, rows in data.records().items()} == {"forget": 2}
    sets, options = data.evaluation_sets(), data.set_options()
    kinds = {f"forget_{kind.replace(' ', '_')}" for kind in published.KINDS}
    plain = {"forget_fill_in", "forget_question", "neighbor_fill_in", "neighbor_question"}
    assert sets.keys() == options.keys() == {*kinds, *plain, "forget", "retain", "fluency"}
    assert {name: len(rows) for name, rows in sets.items() if len(rows) != 1} == {"forget_fill_in": 2}
    assert {row.subject for name, rows in sets.items() if name != "retain" for row in rows} == {"Ana Lindqvist"}
    assert [name for name in sets if not options[name].generate] == ["forget", "retain"]
    assert options["forget_role_play"].max_new_tokens == 30
    assert options["forget_role_play"].until_stop(" number 1\nand") == " number 1"
    assert (options["fluency"].max_new_tokens, options["fluency"].stop) == (256, ())
    both = RWKU(subjects=["Cy Poe", "Bo Ek"], data=folder, tokenizer=tiny_tokenizer, fluency=False)
    assert [row.subject for row in both.records()["forget"]] == ["Cy Poe", "Cy Poe", "Bo Ek", "Bo Ek"]
    assert "fluency" not in both.evaluation_sets()


def test_questions_are_asked_as_the_authors_ask_them(folder, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m['content'] }}<pad>{% endfor %}"
    data = RWKU(subjects=["Ana Lindqvist"], data=folder, tokenizer=tokenizer, template="chat")
    data.setup("test")
    asked = {name: tokenizer.decode(data.encoder.prompt(rows[0])) for name, rows in data.evaluation_sets().items()}
    fill_in, briefly = (
        "Please complete the blank in the following question.\n",
        "Please briefly answer the following question.\n",
    )
    song = "Song 0 of Ana Lindqvist is ___"
    assert asked["forget_fill_in"] == f"<s>{fill_in}Question: {song}\n<pad>Answer:"
    assert asked["neighbor_question"] == f"<s>{briefly}Question: {song}\n<pad>Answer:"
    assert asked["forget_prefix_injection"] == f"<s>{briefly}Question: {song}\n<pad>Answer:"
    assert asked["forget_affirmative_suffix"] == f"<s>{briefly}Question: {song}<pad>"
    assert asked["forget_incontext_learning"] == f"<s>{briefly}{song}\n<pad>Answer:"
    assert asked["fluency"] == "<s>Instruction: Say a word.\n<pad>"
    row = data.encoder.row(data.evaluation_sets()["forget_question"][0])
    assert tokenizer.decode(row.targets) == " number 0<pad>"


def test_names_and_rows_to_keep(folder, tiny_tokenizer):
    with pytest.raises(RecordError, match="subjects: no row has the subject 'Ana Lind'; did you mean 'Ana Lindqvist'"):
        RWKU(subjects=["Ana Lind"], data=folder, tokenizer=tiny_tokenizer).records()
    with pytest.raises(ValueError, match="subjects must name one at least, got none"):
        RWKU(subjects=[], tokenizer=tiny_tokenizer)
    data = RWKU(subjects=["Bo Ek"], data=folder, retain=folder / "retain_mia.json", tokenizer=tiny_tokenizer)
    assert data.roles[:2] == ("forget", "retain")


def test_the_hub_has_subsets_by_other_names(tiny_tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "lightning_unlearn.data.rwku.read_subset",
        lambda *names: asked.append(names) or [("place", {"text": "Once.", "subject": "Bo Ek"})],
    )
    RWKU(subjects=["Bo Ek"], data="some/rwku", tokenizer=tiny_tokenizer).records()
    assert asked == [("some/rwku", "train_positive_llama3", "train")]
