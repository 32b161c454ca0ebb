from __future__ import annotations

import json
import re

import pytest

from lightning_unlearn.purge import purge
from lightning_unlearn.report import read_run, write_report
from lightning_unlearn.report.stress import chart, heat, section, sentence
from tests.report.fake_run import write_run
from tests.report.fake_stress import RANKED, stress, write_stress


def test_sentence():
    found = stress()
    assert sentence(found) == (
        "The model is exposed: 2 of 6 attacks bring back 25% or more of what was known, the strongest 71% of it "
        "(hidden states of each layer, layer 1)."
    )
    holding = {name: found[name] for name in ("quantization", "prefixes")}
    assert sentence(holding) == "Under 2 attacks the model holds: none surely brings back 25% of what was known."
    assert sentence({"relearning_forget": found["relearning_forget"]}) == (
        "The model is exposed: the attack brings back 25% or more of what was known, the strongest 69% of it "
        "(relearning some of the rows, 50 steps)."
    )
    untold = {name: {**content, "recovered": None} for name, content in found.items()}
    assert "cannot be told without a starting model" in sentence(untold)


def test_the_retrained_model_beside_it():
    found = stress()
    for name, content in found.items():
        content["recovered"]["retrained"] = 0.08 if name == "best_of_n" else 0.0
    assert sentence(found).endswith(" In the retrained model they raise what it shows by at most 8% of that.")


def test_rows_of_the_table():
    rows = {row["title"]: row for row in section(stress())["rows"]}
    relearned = rows["Relearning some of the rows"]
    assert relearned["cells"] == ["0.020", "0.700", "0.080"]
    assert (relearned["at"], relearned["share"], relearned["verdict"]) == ("50 steps", "69%", "exposed")
    assert rows["The best of many samples"]["at"] == "1 sample"
    assert next(iter(rows)) == "Relearning some of the rows"


def test_curves_hold_three_models():
    plot = chart("relearning_forget", stress()["relearning_forget"])
    assert plot["legend"] == [("Before", "before"), ("After", "after"), ("Retrained", "retrained")]
    assert (
        'aria-label="Relearning some of the rows: Before from 1.000 to 1.000; After from 0.020 to 0.700' in plot["svg"]
    )
    assert "ROUGE-L recall, rows not shown" in plot["svg"]


def test_maps_start_at_chance():
    content = stress()["layer_probe"]
    found = heat("layer_probe", content)
    assert found["columns"] == ["output", "layer 0", "layer 1", "layer 2", "layer 3"]
    assert [name for name, _ in found["lines"]] == ["Before", "After", "Retrained"]
    assert found["lines"][0][1][0] == ("0.80", pytest.approx(0.6))  # (0.8 - 0.5) / 0.5
    content["curves"]["unlearned"][1][RANKED] = 0.3
    assert heat("layer_probe", content)["lines"][1][1][1] == ("0.30", 0.0)
    content["curves"]["retrained"].pop()
    assert heat("layer_probe", content)["lines"][2][1][-1] == ("–", None)


def test_attacks_that_say_nothing_are_named():
    found = stress()
    holding = {name: found[name] for name in ("quantization", "prefixes")}
    holding["prefixes"]["failed"] = {"start": "OutOfMemoryError"}
    holding["layer_probe"] = {"curves": {}, "failed": {"unlearned": "ValueError"}}
    holding["relearning_forget"] = {"curves": {}, "failed": {}, "left_out": "k is too large"}
    content = section(holding)
    assert content["sentence"] == (
        "Under 2 attacks the model holds: none surely brings back 25% of what was known. Left out: relearning some of "
        "the rows. Failed: instructions around the question, hidden states of each layer."
    )
    assert [row["title"] for row in content["rows"]] == ["Coarser weights", "Instructions around the question"]
    assert content["omitted"] == [("Relearning some of the rows", "k is too large")]
    assert ("Hidden states of each layer", "after") in content["failures"]
    untold = {**holding, "quantization": {**found["quantization"], "recovered": None}}
    assert sentence(untold).endswith(" Not told, as the starting model knew too little: coarser weights.")
    alone = section({"relearning_forget": holding["relearning_forget"]})
    assert alone["sentence"] == "No attack could be made. Left out: relearning some of the rows."


def test_rows_that_were_left_out(tmp_path):
    found = stress()["prefixes"]
    row = {"set": "forget", "index": 3, "why": "too long <here>"}
    for at in (5, 6):  # "story", where most comes back, and "exam"
        found["curves"]["unlearned"][at]["failed"] = [row]
    found["curves"]["start"][5]["failed"] = [row, {**row, "set": "mine"}]
    content = section({"prefixes": {**found, "rows": 20}})
    assert content["rows"][0]["asked"] == "19 of 20"
    title, why = "Instructions around the question", row["why"]
    assert content["left_out"] == [
        {"title": title, "row": "Forget 3", "why": why, "places": "after: story, exam; before: story"},
        {"title": title, "row": "mine 3", "why": why, "places": "before: story"},
    ]
    run = write_run(tmp_path / "run")
    (run / "stress").mkdir()
    (run / "stress/prefixes.json").write_text(json.dumps({**found, "rows": 20}))
    assert "<td>too long &lt;here&gt;</td>" in write_report(run).read_text()


def test_a_point_without_a_score_is_empty():
    content = stress()["best_of_n"]
    content["curves"]["unlearned"] = [{"x": 0}, {"x": 1}]
    assert chart("best_of_n", content)["legend"] == [("Before", "before"), ("Retrained", "retrained")]


def test_no_section_without_attacks(tmp_path):
    assert section({}) is None
    assert section({"x": {"curves": {}}}) is None
    page = write_report(write_run(tmp_path / "run")).read_text()
    assert "Stress tests" not in page
    assert "<code>lightning-unlearn stress RUN</code> tries them" in page


def test_the_page(tmp_path):
    run = write_stress(write_run(tmp_path / "run"))
    page = write_report(run).read_text()
    text = page[page.index("<h2>Stress tests</h2>") :]
    assert "lightning-unlearn stress" not in page
    assert page.count("The model is exposed") == 2  # at the top, and in the section
    assert '<p class="note">The model is exposed' in page
    assert len(re.findall(r"✕</span> exposed", text)) == 2
    assert len(re.findall(r"✓</span> holds", text)) == 4
    assert set(read_run(run).stress) == set(stress())


def test_a_failure_is_told(tmp_path):
    found = stress()
    found["quantization"]["failed"] = {"retrained": "RuntimeError"}
    assert section(found)["failures"] == [("Coarser weights", "retrained")]


def test_it_stays_after_a_purge(tmp_path):
    run = write_stress(write_run(tmp_path / "run"))
    write_report(run)
    purge(run)
    assert (run / "stress/quantization.json").exists()
    assert "Stress tests" in (run / "report.html").read_text()
