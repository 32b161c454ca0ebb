import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "kernels/README.md"


def test_the_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert names["hidden"].grad[3].abs().sum() == 0  # the ignored token
    assert names["weight"].grad.abs().sum() > 0


def test_files_in_the_guide_exist():
    package = README.parent / "unlearn_kernels"
    listed = set(re.findall(r"`(\w+\.py)`", README.read_text()))
    assert listed == {path.name for path in package.glob("*.py")} - {"__init__.py"}
