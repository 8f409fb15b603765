"""Which agent sent a request: read from the prompt by the dialects, or from what every OpenAI request holds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from toolweave.dialects import AgentFabric
from toolweave.dialects.reading import Exchange as Seen
from toolweave.dialects.reading import Reading
from toolweave.types import InvalidToolCall, Json, Message, ToolCall, ToolSpec

_DIALECTS = (AgentFabric("v06"), AgentFabric("v07"))
_NAME_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a request says about its sender.

    `identity` is what stays the same from turn to turn: instruction and tools, but not the knowledge, which follows
    the query. `query` is what the user asked in this turn, `trace` what the model did about it so far. `dialect` is
    None where no dialect reads the prompt; then `native_calls` are the tool calls of each message.
    """

    messages: tuple[Message, ...]
    agent: str
    identity: str
    tools: tuple[ToolSpec, ...]
    query: str
    trace: tuple[Seen, ...] = ()
    dialect: AgentFabric | None = None
    native_calls: tuple[tuple[Json, ...], ...] = ()


def recognise(request: Json) -> Recognised:
    """Read a request body. Never raises: what cannot be read is empty."""
    messages = _messages(request)
    calls = tuple(_calls(item) for item in _objects(request.get("messages")))
    if request.get("tools") or any(calls) or any(message["role"] == "tool" for message in messages):
        return _of_native(messages, calls, request)
    for dialect in _DIALECTS:
        reading = dialect.read_prompt(messages)
        if reading is not None:
            return _of_prompt(messages, reading, dialect)
    system = _system(messages)
    users = _asked(messages)
    query = users[-1]["content"] if users else _text(request.get("prompt"))
    return Recognised(messages, _short(system), system, (), query, native_calls=calls)


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


def _of_prompt(messages: tuple[Message, ...], reading: Reading, dialect: AgentFabric) -> Recognised:
    prompt = reading.prompt
    identity = json.dumps([prompt.instruction, [tool.openai() for tool in prompt.tools]], ensure_ascii=False)
    return Recognised(messages, _short(_named(reading)), identity, prompt.tools, prompt.query, reading.trace, dialect)


def _of_native(messages: tuple[Message, ...], calls: tuple[tuple[Json, ...], ...], request: Json) -> Recognised:
    """Read a request of native tool calling; a prompt that says nothing of tools may still be in a dialect's frame."""
    system, tools, asked = _system(messages), _native_tools(request), _asked(messages)[-1:]
    agent, query = system, asked[0]["content"] if asked else ""
    for dialect in _DIALECTS:
        reading = dialect.read_prompt((*messages[:1], *asked))
        if reading is not None:
            agent, query = _named(reading), reading.prompt.query
            break
    return Recognised(messages, _short(agent), system, tools, query, native_calls=calls)


def _named(reading: Reading) -> str:
    instruction = reading.prompt.instruction
    return instruction if isinstance(instruction, str) else instruction["name"]


def _system(messages: Iterable[Message]) -> str:
    return "\n".join(message["content"] for message in messages if message["role"] in ("system", "developer"))


def _asked(messages: Iterable[Message]) -> list[Message]:
    return [message for message in messages if message["role"] == "user"]


def _messages(request: Json) -> tuple[Message, ...]:
    return tuple(
        Message(role=_text(item.get("role")), content=_text(item.get("content")))
        for item in _objects(request.get("messages"))
    )


def _objects(value: object) -> list[Json]:
    """Return a list's items; what is no object counts as an empty one, so that places stay."""
    return [item if isinstance(item, dict) else {} for item in value] if isinstance(value, list) else []


def _calls(message: Json) -> tuple[Json, ...]:
    calls = message.get("tool_calls")
    return tuple(call for call in calls if isinstance(call, dict)) if isinstance(calls, list) else ()


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
