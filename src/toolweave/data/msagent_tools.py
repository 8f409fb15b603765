"""The tool list in the system prompt of an ms_agent row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

from toolweave.data.schemas import json_type, standard_type
from toolweave.errors import DataError
from toolweave.types import Json, ToolCall, ToolSpec

T = TypeVar("T")

_FRAME = re.compile(r"(?:Answer the following questions as best you can\.\s*)?You have access to the following \w+\s*:")
_END = re.compile(r"\s*(?:Use the following format\b|\Z)")
_NAME = re.compile(r"(?P<name>[^\s:]*)[ \t]*:")
_HEADER = re.compile(r"\s*(?:\d+\s*\.)?[ \t]*" + _NAME.pattern)
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


class _Seen(NamedTuple):
    """The types of values that calls give to a parameter."""

    tool: str
    parameter: str
    kinds: tuple[str, ...]


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
    inferred = sorted(_Seen(*use, tuple(sorted(seen))) for use, seen in kinds.items() if seen != {"string"})
    return _typed(_Same(tools), tuple(inferred))


class _Same(Generic[T]):
    """A value that is hashed by identity: the caches here give the same object for the same text."""

    def __init__(self, value: T) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value


@lru_cache(maxsize=4096)
def _typed(tools: _Same[tuple[ToolSpec, ...]], inferred: tuple[_Seen, ...]) -> tuple[ToolSpec, ...]:
    return tuple(
        _typed_tool(_Same(tool), tuple(seen for seen in inferred if seen.tool == tool.name)) for tool in tools.value
    )


@lru_cache(maxsize=4096)
def _typed_tool(tool: _Same[ToolSpec], inferred: tuple[_Seen, ...]) -> ToolSpec:
    used = {seen.parameter: seen.kinds for seen in inferred}
    name, description, parameters = tool.value.name, tool.value.description, tool.value.parameters
    properties = {
        key: {"type": _one_type(used.get(key, ())), **schema} for key, schema in parameters["properties"].items()
    }
    return ToolSpec(name, description, {**parameters, "properties": properties})


def _one_type(seen: Sequence[str]) -> str | list[str]:
    if not seen:
        return "string"
    kinds = set(seen)
    if "number" in kinds:
        kinds.discard("integer")
    if kinds == {"null"}:
        kinds.add("string")
    inferred = sorted(kinds, key=_JSON_TYPES.index)
    return inferred[0] if len(inferred) == 1 else inferred


def _read_tool(text: str, start: int, number: int) -> tuple[ToolSpec, int]:
    header = _HEADER.match(text, start)
    name = header["name"] if header else ""
    if header is None or not name:
        raise DataError(f"tool {number} has no name: {_excerpt(text, start)}", _HINT)
    # Tools come again in the lists of other rows: most are known by their text.
    begin = header.start("name")
    known = _read_paragraph(text[begin:].partition("\n\n")[0])
    if known and (follows := _FOLLOWS.match(text, begin + known[1])):
        return known[0], follows.end()
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


@lru_cache(maxsize=4096)
def _read_paragraph(text: str) -> tuple[ToolSpec, int] | None:
    """Read a tool, from its name on, and where its parameters end; None where that depends on what follows."""
    header = _NAME.match(text)
    marker = header and _PARAMETERS.search(text, header.end())
    if not header or not header["name"] or not marker:
        return None
    description = text[header.end() : marker.start()]
    try:
        parameters, end = _DECODER.raw_decode(text, marker.end())
        if "\n" in description or not isinstance(parameters, list):
            return None
        return ToolSpec(header["name"], _description(description), _schema(header["name"], parameters)), end
    except (ValueError, RecursionError, DataError):
        return None


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
