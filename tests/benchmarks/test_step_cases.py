import numpy as np
import pytest
import torch

from benchmarks import step_cases
from benchmarks.shapes import SHAPES
from benchmarks.step_cases import PRESETS, ROLES, StepCase, loader, pad, rows_of, tofu_folder, useful_tokens
from lightning_unlearn.data.packing import TokenRow

CASE = StepCase("IDK+AP", "tiny", "full", False, 3, 0, 2, "fictitious", "float32", "cpu")
ROW = TokenRow(np.array([0, 7, 8, 9]), np.array([1, 2, 3]), np.array([8, 9, 1]))  # two of a question, two of an answer


def test_a_row_is_laid_out_with_its_eos():
    batch = pad({"forget": [ROW]}, 7)["forget"]
    assert batch["input_ids"].tolist() == [[0, 7, 8, 9, 1, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 8, 9, 1, -100, -100]]
    assert pad({"forget": [ROW]}, None)["forget"]["input_ids"].shape == (1, 5)
    with pytest.raises(ValueError, match="--padded-to: expected at least 5, the longest row of forget, got 4"):
        pad({"forget": [ROW]}, 4)


def test_rows_of_every_role_stay_within_the_vocabulary():
    plan = loader(CASE).plan(0, 0)
    assert set(plan) == {"forget", *ROLES["IDK+AP"]}
    assert all(len(some) == 3 for some in plan.values())
    ids = np.concatenate([np.append(row.input_ids, row.targets) for some in plan.values() for row in some])
    assert 0 <= ids.min() < ids.max() < SHAPES["tiny"].vocabulary
    assert len(loader(CASE)) == 2  # as many steps as the run has


def test_tokens_are_reached_with_the_fewest_rows():
    case = StepCase("ME+GD", "tiny", "full", False, 1, 300, 0, "fictitious", "float32", "cpu")
    found = loader(case)
    assert useful_tokens(found.plan(0, 0)) >= 300
    fewer = step_cases.UnlearningLoader({**found.rows, "forget": found.rows["forget"][:-1]}, batch_size=1)
    assert len(found.rows["forget"]) == found.batch_size > len(fewer.rows["forget"])


def test_too_many_rows_is_an_error():
    case = StepCase("ME+GD", "tiny", "full", False, 300, 0, 2, "fictitious", "float32", "cpu")
    with pytest.raises(ValueError, match="--rows: expected at most 400 for 2 steps, got 300 a step"):
        loader(case)


def test_tofu_is_found_by_its_variable(monkeypatch, tmp_path):
    (tmp_path / "full.json").touch()
    monkeypatch.setenv("UNLEARN_TOFU_DIR", str(tmp_path))
    assert tofu_folder() == tmp_path
    monkeypatch.delenv("UNLEARN_TOFU_DIR")
    monkeypatch.setattr(step_cases, "REPOSITORY", tmp_path / "elsewhere")
    assert tofu_folder() is None
    assert step_cases.data_name() == "fictitious"
    with pytest.raises(ValueError, match="UNLEARN_TOFU_DIR: expected a folder with the TOFU rows, got none"):
        rows_of("tofu", 999)


def test_real_rows(tofu_dir, monkeypatch):
    monkeypatch.setenv("UNLEARN_TOFU_DIR", str(tofu_dir))
    assert step_cases.data_name() == "tofu"
    rows = rows_of("tofu", 32000)
    assert len(rows["forget"]) == len(rows["retain"]) == step_cases.MOST_ROWS
    assert 30 < np.mean([len(row.input_ids) for row in rows["forget"]]) < 150


def test_presets_are_the_four_objectives_on_every_model():
    chosen = {name: preset.cases("cpu") for name, preset in PRESETS.items()}
    assert {case.objective for case in chosen["issue"]} == set(ROLES)
    assert {case.tuning for case in chosen["1b"]} == {"full", "lora"}
    assert all(case.checkpointing and case.tokens == 2048 for case in chosen["8b"])
    assert PRESETS["8b"].cases("cpu", ["NPO+KL"])[1].slug.startswith("NPO+KL-llama-3.1-8b-lora-checkpointing-2048")
    assert [getattr(torch, case.dtype) for case in chosen["1b"][:1]] == [torch.bfloat16]
