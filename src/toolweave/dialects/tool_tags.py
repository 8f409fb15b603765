"""Writing and reading `<tool_call>{"name": …, "arguments": {…}}</tool_call>`."""

from __future__ import annotations

import json
import re
from typing import Any

from toolweave.dialects.parsing import read_call, read_object
from toolweave.types import InvalidToolCall, Json, Reply, ToolCall

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
# Reasoning models think aloud first: what is in there is neither answer nor call.
_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


def call_text(call: ToolCall) -> str:
    """Return a call between its tags."""
    return tagged(call.name, call.arguments, call.id)


def tagged(name: str, arguments: object, id_: str = "") -> str:
    """Return a call between its tags; `arguments` that are text are taken for unreadable ones.

    A tag inside an argument is escaped, because a server's parser looks for tags.
    """
    body = json.dumps({**({"id": id_} if id_ else {}), "name": name, "arguments": arguments}, ensure_ascii=False)
    for tag in (_OPEN, _CLOSE):
        body = body.replace(tag, f"\\u003c{tag[1:]}")
    return f"{_OPEN}\n{body}\n{_CLOSE}"


def parse_tagged_reply(reply: str) -> Reply:
    """Split a reply into text and calls.

    Accepts a missing closing tag, code fences, Python dicts, `parameters` for `arguments`, and arguments that
    are JSON inside a string. What cannot be read becomes an `InvalidToolCall` with the raw text. With calls
    present, `Reply.text` is what precedes the first one.
    """
    thought = _THOUGHT.match(reply)
    reply = reply[thought.end() :] if thought else reply
    at = reply.find(_OPEN)
    text = (reply if at < 0 else reply[:at]).strip()
    calls: list[ToolCall | InvalidToolCall] = []
    while at >= 0:
        call, at = _read(reply, at + len(_OPEN))
        calls.append(call)
        at = reply.find(_OPEN, at)
    return Reply(text, tuple(calls))


def _read(reply: str, start: int) -> tuple[ToolCall | InvalidToolCall, int]:
    """Return the call that begins at `start`, and where to look for the next."""
    found = read_object(reply[start:])
    if found is not None:
        return _call(*found), start + reply[start:].index(found[1]) + len(found[1])
    ends = [end for tag in (_OPEN, _CLOSE) if (end := reply.find(tag, start)) >= 0]
    end = min(ends, default=len(reply))
    return InvalidToolCall("", reply[start:end].strip(), "the call is not valid JSON"), end


def _call(value: Json, raw: str) -> ToolCall | InvalidToolCall:
    # Some models wrap the call once more, as OpenAI does.
    inner = value["function"] if isinstance(value.get("function"), dict) else value
    name, id_ = inner.get("name"), str(value.get("id") or "")
    if not isinstance(name, str) or not name.strip():
        return InvalidToolCall("", raw, "the call names no tool", id_)
    arguments: Any = inner.get("arguments", inner.get("parameters"))
    match arguments:
        case None:
            return ToolCall(name, {}, raw, id_)
        case dict():
            return ToolCall(name, arguments, raw, id_)
        case str():
            read = read_call(name, arguments)
            if isinstance(read, ToolCall):
                return ToolCall(name, read.arguments, raw, id_)
            return InvalidToolCall(name, arguments, read.reason, id_)
        case _:
            return InvalidToolCall(name, json.dumps(arguments), "the arguments are not a JSON object", id_)
