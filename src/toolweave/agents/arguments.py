"""Checking a call's arguments against the tool's schema, and mending what can be mended without loss."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from toolweave.errors import ToolError
from toolweave.types import Json


class ArgumentCheck:
    """Checks arguments against one JSON Schema of type object."""

    def __init__(self, schema: Json) -> None:
        self._schema = schema
        self._validator = Draft202012Validator(schema)

    def __call__(self, arguments: Json) -> Json:
        """Return the arguments, with values of the wrong type turned into the right one where nothing is lost.

        `"12"` becomes 12 for an integer; `"12 days"` does not. Raises ToolError saying what is wrong.
        """
        mended: Json = _mend(arguments, self._schema)
        try:
            problem = best_match(self._validator.iter_errors(mended))
        except Exception:  # The schema comes from a stranger: what it breaks is not the model's fault.
            return mended
        if problem is None:
            return mended
        where = ".".join(str(part) for part in problem.absolute_path)
        raise ToolError(f"{where}: {problem.message}" if where else problem.message)


def _mend(value: Any, schema: Any) -> Any:
    if not isinstance(schema, dict):
        return value
    wanted = schema.get("type", ())
    kinds = [wanted] if isinstance(wanted, str) else list(wanted)
    if kinds and not any(_is(kind, value) for kind in kinds):
        value = next((mended for kind in kinds for mended in _convert(kind, value)), value)
    if isinstance(value, dict) and isinstance(schema.get("properties"), dict):
        return {name: _mend(part, schema["properties"].get(name)) for name, part in value.items()}
    if isinstance(value, list) and "items" in schema:
        return [_mend(item, schema["items"]) for item in value]
    return value


_IS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def _is(kind: str, value: Any) -> bool:
    return kind in _IS and _IS[kind](value)


def _convert(kind: str, value: Any) -> Iterator[Any]:
    """Yield the value as the kind, if it can be written as that and read back the same."""
    if kind == "string" and _is("number", value):
        yield json.dumps(value)
    elif kind == "integer" and isinstance(value, float) and math.isfinite(value) and value.is_integer():
        yield int(value)
    elif isinstance(value, str) and kind != "string":
        try:
            read = json.loads(value.lower() if kind == "boolean" else value)
        except (ValueError, RecursionError):
            return
        if _is(kind, read) and (not isinstance(read, float) or math.isfinite(read)):
            yield read
