"""Which agent sent a request: read from the prompt by the dialects, or from what every OpenAI request holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from toolweave.dialects import Dialect, Prompt, get_dialect
from toolweave.types import InvalidToolCall, Json, Message, ToolCall, ToolSpec

_DIALECTS = tuple(get_dialect(name) for name in ("v06", "v07"))
_NAME_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Reading:
    """What a request says about its sender.

    `identity` is what stays the same from turn to turn: instruction and tools, but not the knowledge, which follows
    the query. `query` is what the user asked in this turn. `dialect` is None where none reads the prompt.
    """

    messages: tuple[Message, ...]
    agent: str
    identity: str
    tools: tuple[ToolSpec, ...]
    query: str
    dialect: Dialect | None = None


def recognise(request: Json) -> Reading:
    """Read a request body. Never raises: what cannot be read is empty."""
    messages = _messages(request)
    for dialect in _DIALECTS:
        prompt = dialect.read_prompt(messages) if messages else None
        if prompt is not None:
            return _of_prompt(messages, prompt, dialect)
    system = "\n".join(message["content"] for message in messages if message["role"] in ("system", "developer"))
    users = [message["content"] for message in messages if message["role"] == "user"]
    query = users[-1] if users else _text(request.get("prompt"))
    return Reading(messages, _short(system), system, _native_tools(request), query)


def native_call(call: Json) -> ToolCall | InvalidToolCall:
    """Read a tool call in OpenAI's form, whose arguments are a JSON text."""
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    name, raw = str(function.get("name") or ""), function.get("arguments")
    raw = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
    try:
        arguments = json.loads(raw or "{}")
    except (ValueError, RecursionError):
        return InvalidToolCall(name, raw, "the arguments are not valid JSON")
    if not isinstance(arguments, dict):
        return InvalidToolCall(name, raw, "the arguments are not a JSON object")
    return ToolCall(name, arguments, raw)


def observation_frame(dialect: Dialect) -> tuple[str, str]:
    """Return what a dialect writes before and after an observation."""
    before, _, after = dialect.observation_text("\0").partition("\0")
    return before, after


def _of_prompt(messages: tuple[Message, ...], prompt: Prompt, dialect: Dialect) -> Reading:
    instruction = prompt.instruction
    name = instruction if isinstance(instruction, str) else instruction["name"]
    identity = json.dumps([instruction, [tool.openai() for tool in prompt.tools]], ensure_ascii=False)
    return Reading(messages, _short(name), identity, prompt.tools, _first_query(prompt.query, dialect), dialect)


def _first_query(grown: str, dialect: Dialect) -> str:
    """Return what the user asked, where the trace of the visit may have grown behind it."""
    before, _ = observation_frame(dialect)
    head, found, _ = grown.partition(before)
    return dialect.parse(head).text if found else grown


def _messages(request: Json) -> tuple[Message, ...]:
    given = request.get("messages")
    items: Sequence[object] = given if isinstance(given, list) else ()
    objects = (item if isinstance(item, dict) else {} for item in items)
    return tuple(Message(role=_text(item.get("role")), content=_text(item.get("content"))) for item in objects)


def _text(content: object) -> str:
    """Return a message's content as one text; parts that are no text are left out."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _native_tools(request: Json) -> tuple[ToolSpec, ...]:
    given = request.get("tools")
    tools = []
    for item in given if isinstance(given, list) else ():
        try:
            tools.append(ToolSpec.from_openai(item))
        except (KeyError, TypeError, AttributeError):
            continue  # not a function: a built-in tool of the server
    return tuple(tools)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _NAME_LENGTH else line[: _NAME_LENGTH - 1] + "…"
