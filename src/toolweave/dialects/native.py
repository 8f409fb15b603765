"""OpenAI's own tool calls: tools in the request, calls and results as fields of messages.

A reply is a text here as everywhere: what the server sends in `tool_calls` is written behind the content as
`<tool_call>` JSON (`reply_text`), which is also what the chat templates of such models mostly make of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolweave.dialects.agentfabric import AgentFabric
from toolweave.dialects.base import CallsPerReply, Dialect, Prompt, ToolsIn
from toolweave.dialects.tool_tags import call_text, parse_tagged_reply, tagged
from toolweave.types import InvalidToolCall, Json, Lang, Message, Reply, ToolCall

# What OpenAI allows in a function's name; other servers answer 400 as well.
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME = 64


class Native(Dialect):
    """Function calling by the server: an assistant message with `tool_calls`, then a `tool` message for each."""

    name = "native"
    calls_per_reply = CallsPerReply.MANY
    tools_in = ToolsIn.REQUEST

    def __init__(self) -> None:
        self._frame = AgentFabric("v06")

    def start(self, prompt: Prompt) -> list[Message]:
        """Return system message (knowledge, role), history and the user turn; they say nothing of tools."""
        return self._frame.start(replace(prompt, tools=()))

    def advance(self, messages: Sequence[Message], reply: str, *observations: str) -> list[Message]:
        """Return the next request: the assistant message with its calls, and a `tool` message for each result."""
        parsed = self.parse(reply)
        made = sum(len(message.get("tool_calls", ())) for message in messages)
        calls = [_wire_call(call, f"call_{made + number}") for number, call in enumerate(parsed.calls)]
        said = Message(role="assistant", content=parsed.text, tool_calls=calls)
        results = (
            Message(role="tool", content=observation, tool_call_id=call["id"])
            for call, observation in zip(calls, observations, strict=True)
        )
        return [*messages, said, *results]

    def observation_text(self, *observations: str) -> str:
        """Return the results as the user sees them."""
        return "".join(f"\n<result>{observation}</result>\n" for observation in observations)

    def call_completion(self, call: ToolCall, lang: Lang) -> str:
        """Return the call as `reply_text` writes it."""
        return self.calls_completion((call,), lang)

    def calls_completion(self, calls: Sequence[ToolCall], lang: Lang) -> str:
        """Return the calls as `reply_text` writes them."""
        return "\n".join(map(call_text, calls))

    def parse(self, reply: str) -> Reply:
        """Find the calls of a reply; see `parse_tagged_reply`."""
        return parse_tagged_reply(reply)


def reply_text(content: str, tool_calls: Iterable[Mapping[str, Any]]) -> str:
    """Return an assistant message as one text: content, then its calls, of which each is OpenAI's `tool_calls` item."""
    calls = "\n".join(map(_call_text, tool_calls))
    return f"{content}\n{calls}" if content and calls else content or calls


def _call_text(call: Mapping[str, Any]) -> str:
    function = call.get("function") or {}
    arguments: Any = function.get("arguments") or "{}"
    try:
        read = json.loads(arguments)
    except (ValueError, TypeError, RecursionError):
        read = None
    # What is no JSON object stays as it is written: `parse` says what is wrong with it.
    shown = read if isinstance(read, dict) else arguments
    return tagged(function.get("name") or "", shown, call.get("id") or "")


def _wire_call(call: ToolCall | InvalidToolCall, new_id: str) -> Json:
    # Servers refuse a conversation with arguments that are no JSON; the result tells what was written.
    arguments = call.arguments_json() if isinstance(call, ToolCall) else "{}"
    name = _NOT_IN_NAMES.sub("_", call.name)[:_MAX_NAME] or "unknown"
    return {"id": call.id or new_id, "type": "function", "function": {"name": name, "arguments": arguments}}
