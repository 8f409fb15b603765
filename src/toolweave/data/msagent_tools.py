"""The tool list in the system prompt of an ms_agent row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from toolweave.data.schemas import json_type, standard_type
from toolweave.errors import DataError
from toolweave.types import Json, ToolCall, ToolSpec

_FRAME = re.compile(r"(?:Answer the following questions as best you can\.\s*)?You have access to the following \w+\s*:")
_END = re.compile(r"\s*(?:Use the following format\b|\Z)")
_HEADER = re.compile(r"\s*(?:\d+\s*\.)?[ \t]*(?P<name>[^\s:]*)[ \t]*:")
# What may follow a tool's parameters: the end of the list, or the next tool on a new line.
_FOLLOWS = re.compile(
    r"\s*(?:Format the arguments as a JSON object\.)?"
    r"(?=\s*\Z|\s*\n\s*Use the following format\b|[ \t]*\n\s*(?:\d+\s*\.|[^\s:]+[ \t]*:))"
)
_PARAMETERS = re.compile(r"[ \t\n]Parameters\s*:\s*")
_DESCRIPTION_FRAME = re.compile(
    r"\s*Call this tool to interact with the (?P<api>.*?)\s+API\s*\.(?:\s*What is the (?P=api)\s+API useful for\?)?",
    re.DOTALL,
)
# Descriptions and parameters may have raw newlines inside their quotes.
_DECODER = json.JSONDecoder(strict=False)
_FLAGS = {"true": True, "false": False, "": False, "none": False}
_JSON_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
_HINT = 'tools look like: 1. name: Call this tool to … Parameters: [{"name": …, "description": …, "required": …}]'


class SystemPrompt(NamedTuple):
    """What a system prompt holds: the text before the tool frame, and the tools."""

    instruction: str
    tools: tuple[ToolSpec, ...]


def has_frame(text: str) -> bool:
    """Tell whether a system message lists tools as ms_agent does."""
    return _FRAME.search(text) is not None


@lru_cache(maxsize=1024)
def read_system(text: str) -> SystemPrompt:
    """Take a system prompt apart; without the ReAct frame, all of it is the instruction.

    Parameters whose type the prompt does not tell have no `type` yet: see `with_types`.
    Raises DataError when any tool of the frame cannot be read: a row never loses a tool.
    """
    frame = _FRAME.search(text)
    if frame is None:
        return SystemPrompt(text.strip(), ())
    at = frame.end()
    tools: dict[str, ToolSpec] = {}
    while not _END.match(text, at):
        tool, at = _read_tool(text, at, len(tools) + 1)
        if tool.name in tools:
            raise DataError(f"tool {tool.name} is listed twice", "give each tool a name of its own")
        tools[tool.name] = tool
    return SystemPrompt(text[: frame.start()].strip(), tuple(tools.values()))


def with_types(tools: tuple[ToolSpec, ...], calls: Iterable[ToolCall]) -> tuple[ToolSpec, ...]:
    """Return the tools with a type for every parameter: as the prompt says, as the calls use it, or string.

    The same tools with the same types are the same object, so what is compiled for them is found again.
    """
    kinds: dict[tuple[str, str], set[str]] = {}
    for call in calls:
        for name, value in call.arguments.items():
            kinds.setdefault((call.name, name), set()).add(json_type(value))
    # A string is what is assumed anyway: leaving it out lets rows with the same tools share them.
    inferred = tuple(sorted((use, tuple(sorted(seen))) for use, seen in kinds.items() if seen != {"string"}))
    return _typed(_Listed(tools), inferred)


class _Listed:
    """A tool tuple that is hashed by identity: `read_system` gives the same one for the same text."""

    def __init__(self, tools: tuple[ToolSpec, ...]) -> None:
        self.tools = tools

    def __hash__(self) -> int:
        return id(self.tools)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Listed) and other.tools is self.tools


@lru_cache(maxsize=4096)
def _typed(listed: _Listed, inferred: tuple[tuple[tuple[str, str], tuple[str, ...]], ...]) -> tuple[ToolSpec, ...]:
    used = dict(inferred)
    typed = []
    for tool in listed.tools:
        properties = {
            name: {"type": _one_type(used.get((tool.name, name), ())), **schema}
            for name, schema in tool.parameters["properties"].items()
        }
        typed.append(ToolSpec(tool.name, tool.description, {**tool.parameters, "properties": properties}))
    return tuple(typed)


def _one_type(seen: Iterable[str]) -> str | list[str]:
    kinds = set(seen)
    if "number" in kinds:
        kinds.discard("integer")
    if kinds == {"null"}:
        kinds.add("string")
    inferred = sorted(kinds, key=_JSON_TYPES.index) or ["string"]
    return inferred[0] if len(inferred) == 1 else inferred


def _read_tool(text: str, start: int, number: int) -> tuple[ToolSpec, int]:
    header = _HEADER.match(text, start)
    name = header["name"] if header else ""
    if header is None or not name:
        raise DataError(f"tool {number} has no name: {_excerpt(text, start)}", _HINT)
    # A description may itself say "Parameters: [": the right one is a list, and the next tool or the end follows.
    for marker in _PARAMETERS.finditer(text, header.end()):
        description = text[header.end() : marker.start()]
        if re.search(rf"\n\s*{number + 1}\s*\.[ \t]*(?:[^\s:]*[ \t]*:|Call this tool)", description):
            break  # ran into the next tool, which must not be lost
        try:
            parameters, end = _DECODER.raw_decode(text, marker.end())
        except (ValueError, RecursionError):
            continue
        follows = _FOLLOWS.match(text, end)
        if follows and isinstance(parameters, list):
            return ToolSpec(name, _description(description), _schema(name, parameters)), follows.end()
    raise DataError(f"the parameters of tool {name} are not a JSON list: {_excerpt(text, start)}", _HINT)


def _description(text: str) -> str:
    """Return what the tool is useful for; the full stop before `Parameters:` belongs to the frame."""
    frame = _DESCRIPTION_FRAME.match(text)
    return text[frame.end() if frame else 0 :].strip().removesuffix(".").rstrip()


def _schema(tool: str, parameters: list[Any]) -> Json:
    properties: Json = {}
    required: list[str] = []
    for parameter in parameters:
        name = parameter.get("name") if isinstance(parameter, dict) else None
        if not isinstance(name, str) or not name:
            raise DataError(f"a parameter of tool {tool} has no name: {parameter!r}", _HINT)
        if name in properties:
            raise DataError(f"tool {tool} has two parameters named {name}", "give each parameter a name of its own")
        flag = str(parameter.get("required", "")).strip().lower()
        if flag not in _FLAGS:
            raise DataError(f"parameter {name} of tool {tool} has required={flag!r}", 'write "True" or "False"')
        if _FLAGS[flag]:
            required.append(name)
        properties[name] = _parameter(parameter)
    return {"type": "object", "properties": properties, "required": required}


def _parameter(parameter: Json) -> Json:
    schema: Json = {}
    if kind := standard_type(parameter.get("type")):
        schema["type"] = kind
    schema["description"] = str(parameter.get("description") or "")
    if isinstance(parameter.get("enum"), list) and parameter["enum"]:
        schema["enum"] = parameter["enum"]
    return schema


def _excerpt(text: str, start: int, length: int = 80) -> str:
    return repr(text[start : start + length].strip())
