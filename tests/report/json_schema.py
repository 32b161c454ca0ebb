"""Checks JSON against a schema of draft 2020-12, as far as ours use it: any other keyword is an error."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_unlearn import report

TYPES: dict[str, Any] = {
    **{"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)},
    **{"integer": int, "number": (int, float)},
}
SILENT = {"$schema", "$defs", "title", "description"}


def read_schema(name: str) -> dict[str, Any]:
    """The schema that the package ships for "run_card" or "metrics"."""
    return json.loads((Path(report.__file__).parent / f"{name}.schema.json").read_text(encoding="utf-8"))


def violations(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, at: str = "$") -> Iterator[str]:
    """Yield what a value breaks, each with its place; nothing for a value that follows the schema."""
    root = root or schema
    for keyword, wanted in schema.items():
        if keyword not in SILENT:
            yield from _check(keyword, wanted, value, schema, root, at)


def _check(keyword: str, wanted: Any, value: Any, schema: dict, root: dict, at: str) -> Iterator[str]:
    inside = value if isinstance(value, dict) else {}
    if keyword == "$ref":
        yield from violations(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, at)
    elif keyword == "anyOf":
        if not any(not list(violations(value, one, root, at)) for one in wanted):
            yield f"{at} is none of {len(wanted)} forms"
    elif keyword == "properties":
        for name in wanted.keys() & inside.keys():
            yield from violations(inside[name], wanted[name], root, f"{at}.{name}")
    elif keyword == "additionalProperties":
        for name in inside.keys() - schema.get("properties", {}).keys():
            yield from violations(inside[name], wanted, root, f"{at}.{name}")
    elif keyword == "items":
        for place, item in enumerate(value if isinstance(value, list) else ()):
            yield from violations(item, wanted, root, f"{at}[{place}]")
    elif not HOLDS[keyword](value, wanted):
        yield f"{at} must have {keyword} {wanted}, got {value!r}"


def _is_type(value: Any, wanted: str | list[str]) -> bool:
    """Not a number is no JSON, and a truth value is no number."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    names = [wanted] if isinstance(wanted, str) else wanted
    return any(
        isinstance(value, TYPES[name]) and not (isinstance(value, bool) and name in ("integer", "number"))
        for name in names
    )


HOLDS = {
    "type": _is_type,
    "const": lambda value, wanted: value == wanted,
    "required": lambda value, wanted: not isinstance(value, dict) or set(wanted) <= value.keys(),
    "minimum": lambda value, wanted: not _is_type(value, "number") or value >= wanted,
    "pattern": lambda value, wanted: not isinstance(value, str) or re.search(wanted, value) is not None,
    "minItems": lambda value, wanted: not isinstance(value, list) or len(value) >= wanted,
    "maxItems": lambda value, wanted: not isinstance(value, list) or len(value) <= wanted,
}
