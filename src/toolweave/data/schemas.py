"""Tool lists as data sets write them, read into JSON Schema.

Python's type names (`str`, `dict`), lists of parameters instead of `properties`, `required` inside a
parameter, and whole lists kept as a JSON string all occur. A null that Arrow put into a foreign tool's
schema is taken out again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from toolweave.data.problems import Failure, RowError
from toolweave.types import Json, ToolSpec

_TYPE_NAMES = {
    "str": "string", "text": "string", "int": "integer", "long": "integer", "float": "number", "double": "number",
    "bool": "boolean", "list": "array", "tuple": "array", "set": "array", "dict": "object", "json": "object",
    "map": "object", "hashmap": "object", "arraylist": "array", "none": "null",
}  # fmt: skip
_JSON_TYPES = {"string", "integer", "number", "boolean", "array", "object", "null"}
_HINT = 'a tool is {"name": …, "description": …, "parameters": JSON Schema}'
# Where a schema holds other schemas, rather than annotations or example values.
_NESTED = ("items", "additionalProperties", "not", "anyOf", "oneOf", "allOf", "prefixItems", "properties")


def read_tools(tools: object) -> tuple[ToolSpec, ...]:
    """Read a tool list: a list or its JSON text, of OpenAI schemas or bare ones. Raises RowError."""
    if isinstance(tools, str):
        if not tools.strip():
            return ()
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise RowError(f"the tool list is not JSON: {error}", _HINT, failure=Failure.SCHEMA) from error
    if tools is None:
        return ()
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, list):
        raise RowError("the tool list is not a list", _HINT, failure=Failure.SCHEMA)
    read = tuple(_tool(tool) for tool in tools)
    names = [tool.name for tool in read]
    for tool in read:
        if names.count(tool.name) > 1 and [t for t in read if t.name == tool.name and t != tool]:
            raise RowError(
                f"tool {tool.name} is listed twice", "give each tool a name of its own", failure=Failure.SCHEMA
            )
    # The same tool twice is one tool.
    return tuple({tool.name: tool for tool in read}.values())


def json_type(value: object) -> str:
    """Return the JSON Schema type of a value."""
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def standard_type(name: object) -> str:
    """Return a type name in JSON Schema's spelling; "" if it is none (`any`, for one)."""
    text = str(name or "").strip().lower()
    text = _TYPE_NAMES.get(text, text)
    return text if text in _JSON_TYPES else ""


def _tool(tool: object) -> ToolSpec:
    if isinstance(tool, str):
        with suppress(ValueError, RecursionError):
            tool = json.loads(tool)
    function = tool.get("function") or tool if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name.strip():
        raise RowError(f"a tool has no name: {str(tool)[:80]}", _HINT, failure=Failure.SCHEMA)
    parameters = function.get("parameters") or function.get("input_schema") or {}
    return ToolSpec(name, str(function.get("description") or ""), _parameters(name, parameters))


def _parameters(tool: str, parameters: Any) -> Json:
    if isinstance(parameters, str):
        try:
            parameters = json.loads(parameters)
        except (ValueError, RecursionError):
            parameters = None
    if isinstance(parameters, list):
        named = {str(p.get("name")): p for p in parameters if isinstance(p, Mapping) and p.get("name")}
        if len(named) == len(parameters):
            needed = [name for name, p in named.items() if str(p.get("required")).lower() == "true"]
            drop = ("name", "required")
            bare = {name: {k: v for k, v in p.items() if k not in drop} for name, p in named.items()}
            parameters = {"properties": bare, "required": needed}
    if not isinstance(parameters, Mapping):
        raise RowError(f"the parameters of tool {tool} are no JSON Schema", _HINT, failure=Failure.SCHEMA, tool=tool)
    if parameters and not {"properties", "type", "$ref", "anyOf", "oneOf", "allOf"} & set(parameters):
        parameters = {"properties": parameters}  # a bare table of parameters
    properties = parameters.get("properties") or {}
    if not isinstance(properties, Mapping):
        raise RowError(f"the properties of tool {tool} are no object", _HINT, failure=Failure.SCHEMA, tool=tool)
    flagged = [name for name, p in properties.items() if isinstance(p, Mapping) and p.get("required") is True]
    required = parameters.get("required")
    listed = [name for name in required if name in properties] if isinstance(required, list) else flagged
    read = _schema({**parameters, "properties": properties})
    return {**read, "type": "object", "properties": read.get("properties", {}), "required": listed}


def _schema(schema: Any) -> Any:
    """Return a schema in JSON Schema's own spelling; what is not a schema stays as it is."""
    if isinstance(schema, list):
        return [_schema(item) for item in schema]
    if isinstance(schema, str) and standard_type(schema):
        return {"type": standard_type(schema)}
    if not isinstance(schema, Mapping):
        return schema
    read: Json = {}
    for key, value in schema.items():
        if value is None and key != "default":
            continue  # Arrow's doing
        if key == "properties" and isinstance(value, Mapping):
            read[key] = {name: _schema(p) for name, p in value.items() if p is not None}
        elif key == "type":
            kinds = [standard_type(kind) for kind in (value if isinstance(value, list) else [value])]
            if all(kinds):
                read[key] = kinds if isinstance(value, list) else kinds[0]
        elif key == "required" and not isinstance(value, list):
            continue  # a flag inside a parameter: the list of the tool says it
        elif key == "enum" and not (isinstance(value, list) and value):
            continue
        else:
            read[key] = _schema(value) if key in _NESTED else value
    return read
