"""Mistakes in options, told in one line. Imports nothing heavy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

_ABSTRACT = r"(?:- )?Expected an instantiatable class, but \S+ is abstract"
_KEY = re.compile(r'[Pp]arser key "([^"]+)":?\s*')


class UsageError(ValueError):
    """An option, a value or a command that cannot be used; the message is one line."""


class OneLineErrors:
    """What makes a jsonargparse parser raise its mistakes as UsageErrors of one line; comes first among the bases."""

    exit_on_error: bool

    def known_words(self) -> Iterator[str]:
        """Yield what a user may have meant: the options of the parser, and of its subcommands."""
        for action in self._actions:  # type: ignore[attr-defined]
            for subparser in action.choices.values() if isinstance(action.choices, dict) else ():
                yield from subparser.known_words()
            yield from action.option_strings
            yield action.dest

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as one line, with the nearest known option where one was misspelt."""
        if not self.exit_on_error:  # a parser of one class's options: its message becomes part of the outer one's
            super().error(message, ex)  # type: ignore[misc]
        raise UsageError(explain(message, self.known_words())) from ex


@contextmanager
def naming(argument: str) -> Iterator[None]:
    """Within it a ValueError of one message says which argument it is about; "" for none.

    >>> with naming("retrained"):
    ...     raise ValueError("no such file")
    Traceback (most recent call last):
    ValueError: retrained: no such file
    """
    try:
        yield
    except ValueError as error:
        if argument and len(error.args) == 1:
            error.args = (f"{argument}: {error}",)
        raise


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known word as "; did you mean 'x'?", or nothing where none is near.

    >>> did_you_mean("forget_wieght", ["forget_weight", "retain"])
    "; did you mean 'forget_weight'?"
    >>> did_you_mean("Tofu", ["TOFU"])
    "; did you mean 'TOFU'?"
    >>> did_you_mean("xyz", ["forget_weight"])
    ''
    """
    spelling = {name.lower(): name for name in sorted(set(known))}
    near = difflib.get_close_matches(word.lower(), spelling, n=1, cutoff=0.65)
    return f"; did you mean {spelling[near[0]]!r}?" if near else ""


def single_line(message: str) -> str:
    r"""The message with every run of white space as one space.

    >>> single_line("a\n  b")
    'a b'
    """
    return " ".join(message.split())


def explain(message: str, known: Iterable[str] = ()) -> str:
    r"""Turn a message of the option parser, with its nested lists of tried types, into one line.

    Args:
        message: what jsonargparse reports.
        known: options and class names to suggest from.

    >>> explain("Parser key \"epochs\":\n - Expected a <class 'int'>\n Given value: two")
    "epochs must be int, got 'two'"
    >>> explain("Option 'forget_wieght' is not accepted", ["forget_weight"])
    "unknown option 'forget_wieght'; did you mean 'forget_weight'?"
    """
    known = list(known)
    key = ".".join(_KEY.findall(message))
    if found := re.search(r"unrecognized arguments?: ([^\s=]+)", message):
        return f"unknown option {found[1]!r}{did_you_mean(found[1], [name for name in known if name[:2] == '--'])}"
    if found := re.search(r"ption '([^']+)' is not accepted|does not accept option '([^']+)'", message):
        option = re.sub(r"\.(class_path|init_args)\b", "", found[1] or found[2])
        return f"unknown option {_join(key, option)!r}{_nearest_option(option, known)}"
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return (
            f"{key}: unknown class {found[1]!r}{did_you_mean(found[1], [name for name in known if name[0].isupper()])}"
        )
    if "Problem with given class_path" in message:  # a class is named, and one of its options is the mistake
        message = re.sub(_ABSTRACT, "", message)
    if re.search(_ABSTRACT, message):
        option = key or "the class"
        return f"{option} must be named before its options: --{option} CLASS, or a --config with it, comes first"
    absent = r"Problem with given class_path '([^']+)':\s*(No module named .+|module .+ has no attribute .+)$"
    if found := re.search(absent, message, re.MULTILINE):
        return f"{key}: cannot import {found[1]!r} ({found[2]})"
    if found := re.search(r"arguments are required: (.+)", message):
        names = [re.sub(r"^(fit|validate|test)\.", "", name) for name in found[1].split(", ")]
        return f"missing {', '.join(_as_given(_join(key, name), known) for name in names)}"
    return _wrong_type(key, message) or _own_message(message) or single_line(_KEY.sub(r"\1: ", message))


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)


def _as_given(name: str, known: list[str]) -> str:
    """A missing argument as it is written: one that is known by its place alone has no dashes."""
    by_place = name.isupper() or (name in known and f"--{name}" not in known)
    return name if by_place or name.startswith("--") else f"--{name}"


def _nearest_option(option: str, known: list[str]) -> str:
    """Suggest for the whole dotted name, else for its last or its first part, if that is no option of any class."""
    *outer, last = option.split(".")
    misspelt = [part for part in (last, *outer[:1]) if part not in known]
    others = [name for name in known if name != last]  # of another class
    return did_you_mean(option, others) or next(filter(None, (did_you_mean(part, known) for part in misspelt)), "")


def _wrong_type(key: str, message: str) -> str:
    """Say which types were expected, "" where the message is about something else."""
    expected = re.findall(r"Expected an? (.+?)(?:\. Got value: .*)?$|Expected (<class '\w+'>)$", message, re.MULTILINE)
    types = [name for name in dict.fromkeys(_type_name(first or second) for first, second in expected) if name]
    got = re.search(r"Got value: (.*)$|Given value: (?!NestedArg)(.*)$", message, re.MULTILINE)
    return f"{key} must be {' or '.join(types)}, got {(got[1] or got[2])!r}" if key and types and got else ""


def _own_message(message: str) -> str:
    """Find the message of a class's own check, which the parser lists among the types it tried."""
    *_, innermost = re.split(r"Errors:\n", message)
    tried, of_none, _ = innermost.partition("- Expected a <class 'NoneType'>")
    own = re.sub(r"- Not a valid subclass of .+?\(implicit class_path\)\n", "", tried, flags=re.DOTALL)
    found = [single_line(text) for text in re.split(r"(?:^|\n)\s*- ", own) if text.strip(" -\n")]
    return found[0] if of_none and innermost != message and found else ""


def _type_name(text: str) -> str:
    """What a parser calls a type, as a user would: "" where it says nothing."""
    if "NoneType" in text:
        return ""
    if found := re.fullmatch(r"<class '(?:.*\.)?(\w+)'>", text):
        return found[1]
    if found := re.fullmatch(r"typing\.Literal\[(.*)\]", text):
        return f"one of {found[1]}"
    return text
