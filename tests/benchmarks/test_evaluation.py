import json
from dataclasses import replace

import pytest
import torch

from benchmarks import evaluation, evaluation_plain
from benchmarks.evaluation import OURS, USUAL, EvaluationMeasurement, EvaluationResult, main, ours, targets
from benchmarks.evaluation_cases import EvaluationCase, case, models_of, rows_of
from lightning_unlearn.data.packing import pack
from lightning_unlearn.forward import hidden_states

METRICS = 12


@pytest.fixture(autouse=True)
def _built_in_rows(monkeypatch):
    monkeypatch.setattr("benchmarks.evaluation_cases.tofu_folder", lambda: None)


def test_a_run_prints_a_table_whose_values_agree(capsys, tmp_path):
    main(["--preset", "tiny", "--device", "cpu", "--rows", "6", "--output", str(tmp_path), "--check"])
    out = capsys.readouterr()
    assert out.err.startswith("[1/1] tiny, 6 rows of fictitious, float32 on cpu")
    assert "not measured  the usual way takes >= 4 x our time" in out.out  # that is for the rows
    _, *records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    found = {record["measurement"]["implementation"]: record["measurement"] for record in records}
    assert len(found) == METRICS + 2
    usual = [values for name, values in found.items() if name not in (OURS, USUAL)]
    assert max(values["difference"] for values in usual) == found[USUAL]["difference"] < 1e-4
    assert found[USUAL]["seconds"] == pytest.approx(sum(values["seconds"] for values in usual))
    assert found[USUAL]["over_bytes"] == max(values["over_bytes"] for values in usual)
    assert found[OURS]["over_bytes"] > 0
    assert "| tiny" in (tmp_path / "table.md").read_text()


def test_both_compute_what_differs_from_row_to_row():
    one = replace(case("tiny", "cpu"), rows=60)
    rows, models = rows_of(one), models_of(one)
    few = rows.longest(40)
    batch = pack({"rows": few.tokens["answers"]})
    with torch.no_grad():  # the model says the most frequent token wherever it can: that is right now and then
        models[0].lm_head.weight[batch.targets.mode().values] = 9 * hidden_states(models[0], batch).mean(0)
    assert [len(few.members), len(few.others)] == [40, 40]
    assert len(few.members[0].answer) == max(len(record.answer) for record in rows.members)
    found = ours(models, few)
    for name, compute in evaluation_plain.metrics(*models, few).items():
        values = compute()
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-5, msg=name)
        assert len(set(values.tolist())) > 1, name


def result(name, seconds, memory, difference=None):
    return EvaluationResult(
        EvaluationCase("issue", 400, "tofu", "float32", "cpu"), EvaluationMeasurement(name, seconds, memory, difference)
    )


def test_targets():
    met = [outcome.met for outcome in targets([result(OURS, 1.0, 10), result(USUAL, 4.0, 40, 1e-5)])]
    missed = [outcome.met for outcome in targets([result(OURS, 1.0, 10), result(USUAL, 3.9, 39, 1e-3)])]
    assert (met, missed) == ([True] * 3, [False] * 3)
    assert [outcome.met for outcome in targets([])] == [None] * 3


def test_too_many_rows_are_told():
    with pytest.raises(ValueError, match="--rows: expected at most 400, got 500"):
        main(["--preset", "tiny", "--device", "cpu", "--rows", "500"])
    assert evaluation.parse([]).preset == ["issue"]
