"""`benchmarks/SCALING.md` says what the command prints."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.memory import main, parse
from benchmarks.moments import peak, total
from benchmarks.traffic import traffic

PAGE = (Path(memory.__file__).parent / "SCALING.md").read_text()
BLOCK = r"^    python -m benchmarks.memory ([^\n]+)\n\n```text\n(.+?)\n```$"
BLOCKS = re.findall(BLOCK, PAGE, re.MULTILINE | re.DOTALL)
ROWS = re.findall(r"^\| `(.+?)` \| (\S+) \| (\S+) \|", PAGE, re.MULTILINE)


def test_all_three_plans_are_there():
    assert [re.search("[0-9]+b", words)[0] for words, _ in BLOCKS] == ["8b", "70b", "405b"]
    assert len(ROWS) >= 9


@pytest.mark.parametrize(("words", "printed"), BLOCKS)
def test_plans_are_as_printed(capsys, words, printed):
    main(shlex.split(words))
    assert capsys.readouterr().out.rstrip() == printed


@pytest.mark.parametrize(("words", "most", "sent"), ROWS)
def test_rows_are_as_computed(words, most, sent):
    plan = parse(shlex.split(words)).plan
    assert (f"{peak(plan)[1] / 1e9:.1f}", f"{total(traffic(plan)) / 1e9:.1f}") == (most, sent)
