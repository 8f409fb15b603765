"""A chat request with tools, turned into the messages that the model was tuned on.

Only a dialect writes them: OpenAI's messages are read into a prompt and the steps taken since, as an app would
have had them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from toolweave.dialects import Dialect, Prompt
from toolweave.dialects.agentfabric import contains_chinese
from toolweave.serving.generation import RequestError
from toolweave.serving.protocol import ChatMessage, FunctionCall
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
    turn. Raises RequestError when there is no user message, or a result without its call.
    """
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
    pending: dict[str, ToolCall] = {}
    said = ""
    for message in messages[asked + 1 :]:
        if message.role == "assistant":
            said = message.text
            pending |= {part.id: _call(part.function) for part in message.tool_calls or ()}
        elif message.role == "tool":
            if message.tool_call_id not in pending:
                raise RequestError(f"messages: no call has the tool_call_id {message.tool_call_id!r}")
            call = pending.pop(message.tool_call_id)
            request = dialect.advance(request, said + dialect.call_completion(call, lang), message.text)
            said = ""
    return request


def _history(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return queries and answers: as in the app, the calls of an earlier turn are not told again."""
    return [
        message.to_message()
        for message in messages
        if message.role == "user" or (message.role == "assistant" and not message.tool_calls)
    ]


def _call(function: FunctionCall) -> ToolCall:
    where = f"messages: the arguments of the call of {function.name}"
    try:
        value = json.loads(function.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where} are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"{where} are not a JSON object")
    return ToolCall(function.name, value)


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
