"""A chat request with tools, turned into the messages that the model was tuned on.

Only a dialect writes them: OpenAI's messages are read into a prompt and the steps taken since, as an app would
have had them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from toolweave.dialects import CallsPerReply, Dialect, Prompt, ToolsIn
from toolweave.dialects.agentfabric import contains_chinese
from toolweave.serving.protocol import ChatMessage
from toolweave.serving.sampling import RequestError
from toolweave.types import Lang, Message, ToolCall, ToolSpec

_SYSTEM = ("system", "developer")
_TOOL_LINE = re.compile(
    r"^(?P<name>\S+): (?P=name) API(?:。|\. )(?P<description>.*?) (?:输入参数|Parameters): (?=\{)", re.MULTILINE
)
_DECODER = json.JSONDecoder()


def language(messages: Sequence[ChatMessage]) -> Lang:
    """Return the language of the prompt frame: Chinese as soon as instruction or query have a Chinese character."""
    spoken = "".join(message.text for message in messages if message.role in (*_SYSTEM, "user"))
    return Lang.ZH if contains_chinese(spoken) else Lang.EN


def dialect_messages(
    dialect: Dialect, messages: Sequence[ChatMessage], tools: Sequence[ToolSpec], lang: Lang
) -> list[Message]:
    """Return the messages of this request in a dialect.

    What was said before the last user message is history; the calls and results after it are the trace of this
    turn. A dialect that leaves tools to the request takes messages as they are. Raises RequestError when there is no
    user message, a result without its call, or a call whose arguments are no JSON object.
    """
    if dialect.tools_in is ToolsIn.REQUEST:
        for message in messages:
            _calls(message)
        return [message.to_message() for message in messages]
    asked = max((at for at, message in enumerate(messages) if message.role == "user"), default=None)
    if asked is None:
        raise RequestError("messages: with tools, there must be a user message")
    prompt = Prompt(
        query=messages[asked].text,
        tools=tuple(tools),
        instruction="\n\n".join(message.text for message in messages if message.role in _SYSTEM),
        lang=lang,
        history=tuple(_history(messages[:asked])),
    )
    request = dialect.start(prompt)
    for reply in _replies(messages[asked + 1 :]):
        said = reply.said
        for steps in reply.steps(dialect.calls_per_reply):
            completion = dialect.calls_completion([call for call, _ in steps], lang)
            request = dialect.advance(request, _joined(said, completion), *(result for _, result in steps))
            said = ""
    return request


@dataclass(slots=True)
class _Reply:
    """What the assistant said, the calls it made, and their results by id."""

    said: str
    calls: dict[str, ToolCall]
    results: dict[str, str] = field(default_factory=dict)

    def steps(self, per_reply: CallsPerReply) -> list[list[tuple[ToolCall, str]]]:
        """Return the calls that have results, in the order in which they were made, by the reply that a model gave."""
        done = [(call, self.results[id_]) for id_, call in self.calls.items() if id_ in self.results]
        return [[step] for step in done] if per_reply is CallsPerReply.ONE else [done] if done else []


def _replies(messages: Sequence[ChatMessage]) -> list[_Reply]:
    replies: list[_Reply] = []
    for message in messages:
        if message.role == "assistant":
            replies.append(_Reply(message.text, _calls(message)))
        elif message.role == "tool":
            id_ = message.tool_call_id or ""
            made = next((reply for reply in reversed(replies) if id_ in reply.calls), None)
            if made is None:
                raise RequestError(f"messages: no call has the tool_call_id {message.tool_call_id!r}")
            made.results[id_] = message.text
    return replies


def _calls(message: ChatMessage) -> dict[str, ToolCall]:
    return {part.id: part.to_call() for part in message.tool_calls or ()}


def _joined(said: str, completion: str) -> str:
    """Return what the assistant said, and its calls on lines of their own."""
    return f"{said.rstrip()}\n{completion}" if said.strip() else completion


def _history(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return queries and answers: as in the app, the calls of an earlier turn are not told again."""
    return [
        message.to_message()
        for message in messages
        if message.role == "user" or (message.role == "assistant" and not message.tool_calls)
    ]


def tools_in_text(messages: Sequence[ChatMessage]) -> tuple[ToolSpec, ...]:
    """Return the tools that an AgentFabric app wrote into its system message by itself."""
    tools: list[ToolSpec] = []
    for message in messages:
        if message.role not in _SYSTEM:
            continue
        for line in _TOOL_LINE.finditer(message.text):
            try:
                parameters, _ = _DECODER.raw_decode(message.text, line.end())
            except (ValueError, RecursionError):
                continue
            if isinstance(parameters, dict):
                tools.append(ToolSpec(line["name"], line["description"], parameters))
    return tuple(tools)
