"""Schemas of OpenAPI as JSON Schemas that stand alone and fit into a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from toolweave.tools.openapi.document import pointed, resolve
from toolweave.types import Json

MAX_NODES = 200
"""Of one schema; where it is larger, the deepest levels are left open."""

_CHOICES_A_NODE = 5
_DEPTHS = (10, 6, 4, 3, 2, 1, 0)
# `pattern` is left out: a regular expression from elsewhere can take for ever.
_KEPT = (
    *("type", "title", "description", "format", "enum", "const", "default"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
    *("minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"),
)
_TYPES = frozenset({"string", "integer", "number", "boolean", "array", "object", "null"})
_MAX_DESCRIPTION = 300


class _TooLargeError(Exception):
    """The schema has more nodes than are wanted."""


def json_schema(document: Mapping[str, Any], schema: Any) -> Json:
    """Return a schema of `document` with its references replaced.

    A schema within itself, and what lies too deep, is left open (any value of its type). Raises DataError for a
    reference that cannot be followed.
    """
    for depth in _DEPTHS:
        try:
            made = _Inliner(document, depth).inline(schema, (), 0)
        except _TooLargeError:
            continue
        return made if _is_valid(made) else _open(made)
    return _open(resolve(document, schema))


class _Inliner:
    def __init__(self, document: Mapping[str, Any], depth: int) -> None:
        self._document = document
        self._depth = depth
        self._nodes = 0

    def inline(self, schema: Any, above: tuple[str, ...], depth: int) -> Json:
        if not isinstance(schema, Mapping):
            return {}
        choices = schema.get("enum")
        self._nodes += 1 + (len(choices) // _CHOICES_A_NODE if isinstance(choices, list) else 0)
        if self._nodes > MAX_NODES:
            raise _TooLargeError
        reference = schema.get("$ref")
        if isinstance(reference, str):
            target = pointed(self._document, reference)
            if reference in above:
                return _open(resolve(self._document, target))
            inlined = self.inline(target, (*above, reference), depth)
            own = schema.get("description")
            return inlined | {"description": _short(own)} if isinstance(own, str) else inlined
        if depth > self._depth:
            return _open(schema)
        made = _scalar_keywords(schema)
        if isinstance(schema.get("properties"), Mapping):
            made.setdefault("type", "object")
            self._add_properties(made, schema, above, depth)
        if "items" in schema:
            made.setdefault("type", "array")
            made["items"] = self.inline(schema["items"], above, depth + 1)
        if isinstance(schema.get("additionalProperties"), Mapping):
            made["additionalProperties"] = self.inline(schema["additionalProperties"], above, depth + 1)
        for several in ("oneOf", "anyOf", "allOf"):
            if isinstance(schema.get(several), list) and schema[several]:
                made[several] = [self.inline(part, above, depth + 1) for part in schema[several]]
        if schema.get("nullable") is True and isinstance(made.get("type"), str):
            made["type"] = [made["type"], "null"]
            if "enum" in made and None not in made["enum"]:
                made["enum"] = [*made["enum"], None]
        return made

    def _add_properties(self, made: Json, schema: Mapping[str, Any], above: tuple[str, ...], depth: int) -> None:
        required = [name for name in _list(schema.get("required")) if name in schema["properties"]]
        properties = {}
        for name, value in schema["properties"].items():
            target = resolve(self._document, value)
            if isinstance(target, Mapping) and target.get("readOnly") is True:
                required = [other for other in required if other != name]
                continue
            # Some documents say it at the property, where JSON Schema does not.
            if isinstance(target, Mapping) and target.get("required") is True and name not in required:
                required.append(name)
            properties[str(name)] = self.inline(value, above, depth + 1)
        made["properties"] = properties
        if required:
            made["required"] = required


def _scalar_keywords(schema: Mapping[str, Any]) -> Json:
    made: Json = {key: schema[key] for key in _KEPT if key in schema}
    kind = made.pop("type", None)
    kinds = [item for item in (kind if isinstance(kind, list) else [kind]) if item in _TYPES]
    if kind == "file":
        kinds = ["string"]
    if kinds:
        made = {"type": kinds[0] if len(kinds) == 1 else kinds} | made
    if "description" in made:
        made["description"] = _short(str(made["description"]))
    for side in ("Minimum", "Maximum"):
        # OpenAPI 3.0 and Swagger 2 have a flag where JSON Schema has the number.
        exclusive, plain = f"exclusive{side}", side.lower()
        if isinstance(made.get(exclusive), bool) and made.pop(exclusive) and plain in made:
            made[exclusive] = made.pop(plain)
    return made


def _open(schema: Any) -> Json:
    """Return what is left of a schema that is not looked into: its type and what it says of itself."""
    if not isinstance(schema, Mapping):
        return {}
    made = _scalar_keywords(schema)
    kept: Json = {key: made[key] for key in ("type", "description") if key in made}
    if "type" not in kept and isinstance(schema.get("properties"), Mapping):
        kept = {"type": "object"} | kept
    return kept


def _is_valid(schema: Json) -> bool:
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError:
        return False
    return True


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_DESCRIPTION else text[: _MAX_DESCRIPTION - 1] + "…"


def _list(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
