"""Commands that are one function: its arguments are the options, classes among them by name."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentParser

from lightning_unlearn.classes import import_from_working_folder, import_modules, words_of
from lightning_unlearn.usage import OneLineErrors, UsageError, explain


class FunctionParser(OneLineErrors, ArgumentParser):
    """Tells a mistake in one line."""

    bases: Sequence[type] = ()  # of the classes that options may name

    def known_words(self) -> Iterator[str]:
        """Yield options, and the classes with their arguments."""
        yield from super().known_words()
        for base in self.bases:
            yield from words_of(base)


def read_options(
    function: Callable,
    argv: Sequence[str] | None = None,
    *,
    classes: Mapping[ModuleType, type] | None = None,
) -> dict[str, Any]:
    """Return the arguments of a command's function from its words, objects made.

    Args:
        function: its module's last name is the command's, the first line of its documentation the help. What it
            requires and takes by position is given without a name.
        argv: the words; by default those of this process.
        classes: package -> base class of those that options may name.

    Raises:
        UsageError: for a mistake in the words.
    """
    command, summary = function.__module__.rpartition(".")[2], (function.__doc__ or "").partition("\n")[0]
    import_from_working_folder()
    for package in classes or ():
        import_modules(package)
    parser = FunctionParser(prog=f"lightning-unlearn {command}", description=summary)
    parser.bases = tuple((classes or {}).values())
    parser.add_argument("--config", action="config", help="a file of options")
    parser.add_function_arguments(function, as_positional=True)
    options = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    try:
        ready = parser.instantiate(options)
    except ValueError as error:
        raise UsageError(explain(str(error))) from error
    ready.pop("config")
    return ready.as_dict()


def repeatable(words: Sequence[str], option: str) -> list[str]:
    """Return a command's words so that an option which takes a list may be given more than once.

    >>> repeatable(["file", "--evaluator", "PII", "--evaluator.kinds", "[email]"], "--evaluator")
    ['file', '--evaluator+', 'PII', '--evaluator.kinds', '[email]']
    """
    return [re.sub(rf"^{option}(?==|$)", f"{option}+", word) for word in words]
