"""Typed functions as tools: the schema comes from annotations and docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from toolweave.errors import ToolweaveError
from toolweave.tools.base import BaseTool
from toolweave.types import Json

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Examples?):\s*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^\s+(\w+)(?: \([^)]*\))?: (.+)$", re.MULTILINE)


def function_tool(name: str, function: Callable[..., Any]) -> type[BaseTool]:
    """Make a tool class of a function.

    Parameters without default are required, `Literal` makes an enum; descriptions are the docstring's first
    paragraph and its `Args:` section. Raises ToolweaveError for a parameter whose type JSON cannot say.
    """
    summary, descriptions = _read_docstring(function)
    hints = get_type_hints(function)
    schema = [
        {
            "name": parameter.name,
            **_schema(f"{name}: {parameter.name}", hints.get(parameter.name, str)),
            "description": descriptions.get(parameter.name, ""),
            "required": parameter.default is inspect.Parameter.empty,
        }
        for parameter in inspect.signature(function).parameters.values()
    ]

    def call(self: BaseTool, params: str, **kwargs: Any) -> str:
        return str(function(**self._verify_args(params)))

    return type(name, (BaseTool,), {"name": name, "description": summary, "parameters": schema, "call": call})


def _read_docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    text = inspect.getdoc(function) or ""
    sections = _SECTION.split(text)
    summary = " ".join(sections[0].strip().split("\n\n")[0].split())
    arguments = dict(zip(sections[1::2], sections[2::2], strict=True)).get("Args", "")
    return summary, {name: description.strip() for name, description in _ARGUMENT.findall(arguments)}


def _schema(where: str, hint: Any) -> Json:
    if get_origin(hint) in (Union, UnionType):
        # `int | None = None` is an optional integer: leaving it out says None.
        members = [member for member in get_args(hint) if member is not NoneType]
        hint = members[0] if len(members) == 1 else hint
    if get_origin(hint) is Literal:
        values = get_args(hint)
        return {"type": _JSON_TYPES[type(values[0])], "enum": list(values)}
    kind = _JSON_TYPES.get(get_origin(hint) or hint)
    if kind is None:
        usable = "use str, int, float, bool, list, dict or Literal"
        raise ToolweaveError(f"{where}: JSON has no type for {hint}", usable)
    return {"type": kind}
