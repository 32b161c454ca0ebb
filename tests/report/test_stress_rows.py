from __future__ import annotations

from lightning_unlearn.report.stress_rows import asked, left_out, told_rows

LONG = {"set": "forget", "index": 3, "why": "too long"}
NONE = {"set": "forget", "index": 4, "why": "no paraphrase"}
RETAIN = {"set": "retain", "index": 0, "why": "too long"}
CONTENT = {
    "rows": 20,
    "curves": {
        "unlearned": [{"x": "plain"}, {"x": "story", "failed": [LONG, NONE]}],
        "start": [{"x": "plain", "failed": [LONG]}, {"x": "story", "failed": [LONG, RETAIN]}],
    },
}


def test_where_each_row_is_left_out():
    assert left_out(CONTENT) == {
        ("forget", 3, "too long"): {"unlearned": ["story"], "start": ["plain", "story"]},
        ("forget", 4, "no paraphrase"): {"unlearned": ["story"]},
        ("retain", 0, "too long"): {"start": ["story"]},
    }
    assert left_out({"left_out": "too few rows"}) == {}


def test_forget_rows_are_counted():
    unlearned, start = CONTENT["curves"].values()
    assert [asked(CONTENT, point) for point in (*unlearned, *start)] == [f"{n} of 20" for n in (20, 18, 19, 19)]
    assert asked({}, unlearned[0]) == "–"  # of a file that does not tell


def test_rows_are_named_once_with_their_first_reason():
    assert told_rows(CONTENT) == (
        "18 of 20 forget rows asked at every point, left out: forget 3, retain 0 (too long); forget 4 (no paraphrase)"
    )
    twice = {"rows": 2, "curves": {"start": [{"x": x, "failed": [{**LONG, "why": f"why {x}"}]} for x in (1, 2)]}}
    assert told_rows(twice) == "1 of 2 forget rows asked at every point, left out: forget 3 (why 1)"
    assert told_rows({"rows": 2, "curves": {"start": [{"x": 1}]}}) == ""


def test_the_text_names_no_more_than_ten():
    rows = [{"set": "forget", "index": index, "why": "same"} for index in range(13)]
    told = told_rows({"rows": 20, "curves": {"unlearned": [{"x": 1, "failed": rows}]}})
    assert told.startswith("7 of 20 forget rows")
    assert told.endswith("forget 8, forget 9 (same); and 3 more")
