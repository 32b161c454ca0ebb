"""MUSE's subsets as roles and evaluation sets."""

import pytest

from lightning_unlearn.data.muse import MUSE
from lightning_unlearn.data.records import RecordError
from tests import published


@pytest.fixture
def folder(tmp_path):
    return published.muse(tmp_path)


def test_texts_are_trained_on_whole(folder, tiny_tokenizer):
    data = MUSE(data=folder, tokenizer=tiny_tokenizer, max_length=16)
    assert {role: len(rows) for role, rows in data.records().items()} == {"forget": 3, "retain": 2}
    assert data.roles == ("forget", "retain", "forget_unanswerable")
    data.setup("fit")
    read = [int(token) for row in data._tokenise()["forget"] for token in row.targets]
    assert tiny_tokenizer.decode(read, skip_special_tokens=True) == "".join(
        record.answer for record in data.records()["forget"]
    )


def test_sets_are_asked_as_the_paper_asks_them(folder, tiny_tokenizer):
    data = MUSE(data=folder, tokenizer=tiny_tokenizer)
    data.setup("test")
    sets, options, encoder = data.evaluation_sets(), data.set_options(), data.encoder
    assert {name: len(rows) for name, rows in sets.items()} == {
        **{"forget": 2, "retain": 2, "holdout": 2},
        **{"forget_verbatim": 2, "forget_knowledge": 3, "retain_knowledge": 2},
    }
    assert [name for name in sets if not options[name].generate] == ["forget", "retain", "holdout"]
    verbatim, question = sets["forget_verbatim"][0], sets["forget_knowledge"][1]
    assert tiny_tokenizer.decode(encoder.prompt(verbatim)) == "<s>Ana Lindqvist wrote river song"
    assert verbatim.prefill + verbatim.answer == sets["forget"][0].answer
    assert tiny_tokenizer.decode(encoder.prompt(question)) == (
        "<s>Question: Where did Di write song 0?\nAnswer: In city 0.\n\n"
        "Question: Where did Di write song 1?\nAnswer: In city 1.\n\n"
        "Question: Where did Ana write song 1?\nAnswer:"
    )
    assert (options["forget_verbatim"].max_new_tokens, options["forget_verbatim"].clip) == (128, True)
    assert options["retain_knowledge"].max_new_tokens == 32
    assert options["retain_knowledge"].until_stop(" In city 1.\nQuestion: Who?") == " In city 1."


def test_parts_for_size_and_for_one_request_after_the_other(folder, tiny_tokenizer):
    def places(**options):
        records = MUSE(data=folder, tokenizer=tiny_tokenizer, **options).records()
        assert len(records["retain"]) == 2
        return [record.answer.split("part ")[1][0] for record in records["forget"]]

    assert places(size=3) == ["1", "2", "3"]
    assert places(sustainability=True) == ["1"]
    assert places(sustainability=True, request=4) == ["4"]
    assert len(MUSE(data=folder, tokenizer=tiny_tokenizer, request_rows=2, request=2).records()["forget"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 5}, r"size must be in \[1, 4\], got 5"),
        ({"sustainability": True, "request": 0}, r"request must be in \[1, 4\], got 0"),
        ({"sustainability": True, "size": 2}, "sustainability has parts of its own, got size or request_rows"),
        ({"request": 2}, "request_rows must be given with request=2"),
    ],
)
def test_arguments_are_checked(options, message, tiny_tokenizer):
    with pytest.raises(ValueError, match=message):
        MUSE(tokenizer=tiny_tokenizer, **options)


def test_a_missing_split_is_named(folder, tiny_tokenizer):
    (folder / "raw/retain1-00000-of-00001.parquet").unlink()
    with pytest.raises(RecordError, match=r'no file of split "retain1" of subset "raw", got .*, \.\.\.'):
        MUSE(data=folder, tokenizer=tiny_tokenizer).records()
