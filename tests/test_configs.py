"""Every shipped config is parsed and its objects made, with a tiny local model and tokenizer in place of the hub's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
STRESS = sorted((CONFIGS / "stress").glob("*.yaml"))  # of another command
OBJECTIVE, DATA = CONFIGS / "objectives/maximize_entropy.yaml", CONFIGS / "data/fictitious.yaml"


def relative(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def composed(path: Path) -> list[Path]:
    """The config with what it leaves open: an objective, and data."""
    content = yaml.safe_load(path.read_text())
    needs = {"model": OBJECTIVE, "data": DATA}
    missing = [other for key, other in needs.items() if "class_path" not in content.get(key, {})]
    return [*missing, path]


@pytest.mark.parametrize("path", sorted(set(CONFIGS.rglob("*.yaml")).difference(STRESS)), ids=relative)
def test_config_makes_its_objects(path, tiny_model_dir, tmp_path):
    from lightning_unlearn.trainer_cli import UnlearnCLI

    folder = str(tiny_model_dir())
    words = [word for config in composed(path) for word in ("--config", str(config))]
    words += ["--model.model", folder, "--data.tokenizer", folder, "--trainer.default_root_dir", str(tmp_path)]
    words += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    cli = UnlearnCLI(words, run=False)

    content = yaml.safe_load(path.read_text())
    for key, made in (("model", cli.model), ("data", cli.datamodule)):
        if "class_path" in content.get(key, {}):
            assert type(made).__name__ == content[key]["class_path"]
        for name, value in content.get(key, {}).get("init_args", {}).items():
            if isinstance(value, (int, float, bool)) and hasattr(made, name):
                assert getattr(made, name) == value
    if "monitor" in content.get("checkpoint", {}):
        assert cli.trainer.checkpoint_callback.monitor == content["checkpoint"]["monitor"]


def test_every_objective_has_a_config():
    stems = {path.stem for path in (ROOT / "lightning_unlearn/objectives").glob("*.py")} - {"__init__", "base"}
    assert stems == {path.stem for path in (CONFIGS / "objectives").glob("*.yaml")}


@pytest.mark.parametrize("path", sorted((CONFIGS / "objectives").glob("*.yaml")), ids=relative)
def test_objective_config_names_the_class_of_its_stem(path):
    source = ast.parse((ROOT / "lightning_unlearn/objectives" / f"{path.stem}.py").read_text())
    classes = {node.name for node in source.body if isinstance(node, ast.ClassDef)}
    assert yaml.safe_load(path.read_text())["model"]["class_path"] in classes


@pytest.mark.parametrize("path", STRESS, ids=relative)
def test_stress_config_makes_its_attacks(path):
    from lightning_unlearn import attacks
    from lightning_unlearn.attacks.base import Attack
    from lightning_unlearn.function_cli import read_options
    from lightning_unlearn.stress import default_attacks, stress

    made = read_options(stress, ["run", "--config", str(path)], classes={attacks: Attack})["attacks"]
    assert [type(attack) for attack in made] == [type(attack) for attack in default_attacks()]
    if path.stem == "default":
        assert [vars(attack) for attack in made] == [vars(attack) for attack in default_attacks()]
    else:
        assert [vars(attack) for attack in made] != [vars(attack) for attack in default_attacks()]
