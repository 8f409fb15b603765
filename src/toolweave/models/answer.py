"""Reading what a server answers, whole or in chunks, into one text."""

from __future__ import annotations

from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from toolweave.dialects.native import reply_text
from toolweave.errors import ServerError
from toolweave.models.interface import STOPPED
from toolweave.types import Json


class Answer:
    """One reply in the making. `finish_reason` is the server's."""

    def __init__(self, url: str) -> None:
        self.finish_reason = STOPPED
        self._url = url
        self._content = False
        self._calls: dict[int, Json] = {}

    def feed(self, answer: object) -> str:
        """Return the text of an answer or chunk. Raises ServerError for what no OpenAI API would send."""
        # The SDK does not check what it reads, so a server of another kind shows only here.
        if not isinstance(answer, ChatCompletion | ChatCompletionChunk | Completion) or answer.choices is None:
            raise ServerError(
                f"{self._url} does not answer like an OpenAI API", "check api_base: it mostly ends in /v1"
            )
        if not answer.choices:
            return ""  # a chunk that only tells the usage
        choice: Any = answer.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        if isinstance(answer, Completion):
            return choice.text or ""
        message = choice.delta if isinstance(answer, ChatCompletionChunk) else choice.message
        for number, call in enumerate(getattr(message, "tool_calls", None) or ()):
            self._add_call(number, call)
        text = message.content if message is not None else ""
        self._content = self._content or bool(text)
        return text or ""

    def end(self) -> str:
        """Return the native tool calls, as text behind the content; empty when there are none."""
        calls = reply_text("", (self._calls[index] for index in sorted(self._calls)))
        return f"\n{calls}" if calls and self._content else calls

    def _add_call(self, number: int, call: Any) -> None:
        """Add a call, or the next part of one: only parts that a stream sends have an index."""
        index = getattr(call, "index", None)
        part = self._calls.setdefault(number if index is None else index, {"function": {"name": "", "arguments": ""}})
        part["id"] = call.id or part.get("id", "")
        if call.function is not None:
            part["function"]["name"] += call.function.name or ""
            part["function"]["arguments"] += call.function.arguments or ""
