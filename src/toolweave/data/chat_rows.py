"""Readers of chat rows: OpenAI messages, ShareGPT conversations, SWIFT messages, and Hermes text in any of them.

A row has `messages` or `conversations`, whose items have `role`/`content` or `from`/`value`, and `tools`
as a list or as its JSON text, or in a Hermes system message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from toolweave.data.chat import Said, Speaker, build_episode, observation_text, read_arguments
from toolweave.data.problems import Failure, RowError
from toolweave.data.schemas import read_tools
from toolweave.dialects.parsing import read_call
from toolweave.types import Episode, InvalidToolCall, Json, ToolCall, ToolSpec

_SYSTEM = ("system", "developer")
_SPEAKERS = {
    **dict.fromkeys(("user", "human"), Speaker.USER),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "bing", "ai"), Speaker.ASSISTANT),
    **dict.fromkeys(("function_call", "function-call", "tool_call", "tool_calls"), Speaker.CALL),
    **dict.fromkeys(
        ("observation", "tool", "function", "tool_response", "function_response", "function-response", "ipython"),
        Speaker.OBSERVATION,
    ),
}
_TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_TOOL_RESPONSE = re.compile(r"<tool_response>\s*(.*?)\s*(?:</tool_response>|\Z)", re.DOTALL)
_TOOLS = re.compile(r"<tools>\s*(.*?)\s*</tools>", re.DOTALL)
_THINK = re.compile(r"<(think|scratch_pad)>.*?</\1>\s*", re.DOTALL)


def messages_of(row: Mapping[str, Any]) -> list[tuple[str, Any, Mapping[str, Any]]]:
    """Return (role, content, message) of each message of a row. Raises RowError if it has none."""
    for key, role, content in (("messages", "role", "content"), ("conversations", "from", "value")):
        said = row.get(key)
        if said is None:
            continue
        if isinstance(said, str):
            try:
                said = json.loads(said)
            except (ValueError, RecursionError) as error:
                raise RowError(f"{key} is not JSON: {error}", f"{key} must be a list of messages") from error
        if not isinstance(said, list) or not said:
            raise RowError(f"the row has no {key}", f"{key} must be a list of messages")
        if not all(isinstance(message, Mapping) for message in said):
            raise RowError(f"{key} holds something that is no message", f'a message is {{"{role}": …, "{content}": …}}')
        swap = {"role": "from", "from": "role", "content": "value", "value": "content"}
        return [(str(m.get(role, m.get(swap[role]))), m.get(content, m.get(swap[content])), m) for m in said]
    raise RowError("the row has no messages", "it needs messages or conversations")


def is_hermes(row: Mapping[str, Any]) -> bool:
    """Tell whether a row writes its calls as `<tool_call>` text."""
    texts = (content for _, content, _ in messages_of(row) if isinstance(content, str))
    return any("<tool_call>" in text or "<tools>" in text for text in texts)


def read_chat_row(row: Mapping[str, Any]) -> Episode:
    """Return the episode of a chat row. Raises RowError."""
    tools, instruction = read_tools(row.get("tools") or row.get("functions")), str(row.get("system") or "")
    said: list[Said] = []
    for number, (role, content, message) in enumerate(messages_of(row), start=1):
        if role in _SYSTEM:
            if number > 1:
                raise RowError(f"message {number} is a system message", "only the first may be", failure=Failure.ROLES)
            instruction = _text(content)
            tools, instruction = (tools, instruction) if tools else _hermes_tools(instruction)
        elif role in _SPEAKERS:
            said += _said(_SPEAKERS[role], content, message, number)
        else:
            known = ", ".join((*_SYSTEM, *_SPEAKERS))
            raise RowError(f"message {number} has an unknown role: {role!r}", f"use {known}", failure=Failure.ROLES)
    meta = {"id": row["id"]} if row.get("id") is not None else {}
    return build_episode(said, tools, instruction.strip(), meta)


def _said(speaker: Speaker, content: Any, message: Mapping[str, Any], number: int) -> Iterator[Said]:
    if speaker is Speaker.CALL:
        for call in _calls(content, number):
            yield Said(Speaker.CALL, call=call, number=number)
        return
    text = _text(content)
    if speaker is Speaker.OBSERVATION or (speaker is Speaker.USER and text.lstrip().startswith("<tool_response>")):
        shown = _TOOL_RESPONSE.findall(text) or [text]
        for part in shown:
            yield Said(Speaker.OBSERVATION, part, id=str(message.get("tool_call_id") or ""), number=number)
        return
    if speaker is Speaker.ASSISTANT:
        text = _THINK.sub("", text)
        spoken = _TOOL_CALL.split(text)[0] if "<tool_call>" in text else text
        yield Said(Speaker.ASSISTANT, spoken, number=number)
        for block in _TOOL_CALL.findall(text):
            for call in _calls(block, number):
                yield Said(Speaker.CALL, call=call, number=number)
        yield from _openai_calls(message, number)
        return
    yield Said(speaker, text, number=number)


def _openai_calls(message: Mapping[str, Any], number: int) -> Iterator[Said]:
    listed = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    if isinstance(listed, str):
        listed = _json(listed, number)
    if not isinstance(listed, list):
        raise RowError(f"message {number}: tool_calls is not a list", "see the OpenAI chat format")
    for item in listed:
        function = item.get("function", item) if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping):
            raise RowError(f"message {number}: a tool call is not an object", "see the OpenAI chat format")
        call = read_arguments(function.get("name", ""), function.get("arguments"))
        yield Said(Speaker.CALL, call=call, id=str(item.get("id") or ""), number=number)


def _calls(content: Any, number: int) -> list[ToolCall]:
    """Read one call or a list of calls, as an object, JSON text, or the Python dict that Hermes rows may have."""
    value = _json(content, number) if isinstance(content, str) else content
    items = value if isinstance(value, list) else [value]
    calls = []
    for item in items:
        function = item.get("function", item) if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping):
            raise RowError(f"message {number}: a call is not an object: {str(item)[:80]}", "see --from in the manual")
        arguments = function.get("arguments", function.get("parameters"))
        calls.append(read_arguments(function.get("name", ""), arguments))
    return calls


def _json(text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    read = read_call("call", text)
    if isinstance(read, InvalidToolCall):
        raise RowError(
            f"message {number}: the call is not JSON: {text[:80]!r}", 'a call is {"name": …, "arguments": {…}}'
        )
    return read.arguments


def _hermes_tools(system: str) -> tuple[tuple[ToolSpec, ...], str]:
    """Return the tools of a Hermes system message, and the text before their frame."""
    found = _TOOLS.search(system)
    if found is None:
        return (), system
    block = found[1]
    try:
        listed: Json | list[Any] = json.loads(block)
    except ValueError:
        try:
            listed = [json.loads(line) for line in block.splitlines() if line.strip()]
        except ValueError as error:
            raise RowError(f"the tools of the system message are not JSON: {error}", failure=Failure.SCHEMA) from error
    # The frame around the list tells how to write calls; a dialect writes its own.
    return read_tools(listed), re.split(
        r"(?:^|\n)#+ *Tools\b|You are a function calling AI model", system[: found.start()]
    )[0]


def _text(content: Any) -> str:
    """Return a message's text; content may be a list of text parts, as OpenAI has it."""
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        parts = [part.get("text") for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise RowError("a message holds something that is not text", "images and audio cannot be learned here")
        return "".join(str(part) for part in parts)
    return observation_text(content)
