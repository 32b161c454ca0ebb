"""An sdist, the wheel built from it, and what they install: both packages, and every file that is no Python."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"lightning_unlearn": ROOT / "lightning_unlearn", "unlearn_kernels": ROOT / "kernels/unlearn_kernels"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="compares with the files that git tracks"),
]


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist of a copy of the tracked files, and a wheel built from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("build")
    run("git", "checkout-index", "--all", f"--prefix={folder}/source/", cwd=ROOT)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=folder / "source")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return sdist, wheel


def shipped() -> set[str]:
    """Files of the packages as git knows them, by their path after installation."""
    tracked = run("git", "ls-files", "lightning_unlearn", "kernels/unlearn_kernels", cwd=ROOT).split()
    return {path.removeprefix("kernels/") for path in tracked}


def test_wheel_holds_every_file_and_no_other_package(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    assert shipped() - names == set()
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == set(PACKAGES)


def test_sdist_holds_what_a_build_needs(built):
    with tarfile.open(built[0]) as sdist:
        names = {name.split("/", 1)[-1] for name in sdist.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names


def test_installed_wheel_imports_and_runs(built, tmp_path):
    target = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, built[1], cwd=tmp_path)
    code = (
        "import lightning_unlearn, unlearn_kernels, lightning_unlearn.report;"
        "print(lightning_unlearn.__file__, unlearn_kernels.__file__)"
    )
    places = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(target)).split()
    assert all(Path(place).is_relative_to(target) for place in places)
    said = run(sys.executable, target / "bin/lightning-unlearn", "--version", cwd=tmp_path, PYTHONPATH=str(target))
    assert said.startswith("lightning-unlearn ")
