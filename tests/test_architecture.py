"""Imports point one way, light modules stay light, and `kernels` never becomes a package."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "lightning_unlearn").rglob("*.py"))
KERNELS = sorted((ROOT / "kernels/unlearn_kernels").rglob("*.py"))
FOUNDATIONS = (
    *("losses", "models", "forward", "head", "attention", "metrics", "evaluators", "usage"),
    *("classes", "files", "json_lines"),
    *("reference", "reference_cache", "model_key", "row_store", "upcoming"),
    *("updates", "optimizers", "gradients", "localization", "label_sampling", "conjugate_gradients", "task_vector"),
)
ABOVE = (
    *("objectives", "evaluation", "report", "callbacks", "cli", "trainer_cli", "export", "demo", "purge"),
    *("alternates", "attacks", "continual", "discriminate", "discrimination", "negate", "stress"),
)
COMMANDS = ("cli", "trainer_cli", "alternates", "continual", "demo", "discriminate", "negate", "stress")


def name_of(path: Path) -> str:
    base = ROOT / "kernels" if path in KERNELS else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES + KERNELS}


class Imports(ast.NodeVisitor):
    """Modules that a file imports, at its top and inside functions apart; what only type checkers see is left out."""

    def __init__(self) -> None:
        self.top: set[str] = set()
        self.inside: set[str] = set()
        self.depth = 0

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    def add(self, *names: str) -> None:
        (self.inside if self.depth else self.top).update(names)

    def visit_Import(self, node: ast.Import) -> None:
        self.add(*(alias.name for alias in node.names))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"relative import in line {node.lineno}"
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            self.add(name if name in MODULES else node.module)


@cache
def imports(path: Path) -> Imports:
    found = Imports()
    found.visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def ours(path: Path) -> set[str]:
    """Modules of lightning_unlearn that a file imports anywhere, without their package's name."""
    names = imports(path).top | imports(path).inside
    return {name.removeprefix("lightning_unlearn.") for name in names & MODULES.keys() if "." in name}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_one_way(path):
    room = name_of(path).removeprefix("lightning_unlearn").removeprefix(".")
    used = ours(path)
    first = {name.split(".")[0] for name in used}
    if room.startswith("objectives."):
        others = {name for name in used if name.startswith("objectives.")}
        assert others <= {"objectives.base"}, "an objective imports another"
    if room.startswith("data"):
        assert not first & {"objectives", "evaluation", "report", "callbacks"}, "data imports what is above it"
    if room.split(".")[0] in FOUNDATIONS:
        assert not first & set(ABOVE), "a foundation imports what is above it"
    if room.split(".")[0] not in (*COMMANDS, "__main__"):
        assert not first & set(COMMANDS), "a room imports the command line"


def test_no_import_cycles():
    graph = {name: imports(path).top & MODULES.keys() - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", KERNELS, ids=name_of)
def test_kernels_import_torch_and_triton_alone(path):
    roots = {name.split(".")[0] for name in imports(path).top | imports(path).inside}
    assert roots <= {"torch", "triton", "unlearn_kernels", *sys.stdlib_module_names}


def test_there_are_sources():
    assert len(SOURCES) > 20
    assert len(KERNELS) > 3


def test_kernels_is_a_folder_and_no_package():
    assert not (ROOT / "kernels/__init__.py").exists()
    assert not (ROOT / "tests/kernels").exists()


def loaded_after(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh process holds after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    paths = [str(ROOT), str(ROOT / "kernels")]
    code = f"import sys; sys.path[:0] = {paths!r}; {code}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in result.stdout.split()}


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_after("import lightning_unlearn, lightning_unlearn.cli, lightning_unlearn.objectives")
    assert not loaded & {"torch", "lightning", "transformers", "numpy", "jsonargparse", "unlearn_kernels"}


def test_kernels_need_no_more_than_torch():
    loaded = loaded_after("import unlearn_kernels")
    assert "torch" in loaded
    assert not loaded & {"transformers", "lightning", "lightning_unlearn", "peft", "jaxtyping", "torchmetrics"}
