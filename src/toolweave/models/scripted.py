"""A model that says what it is told to, for tests and examples."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

from toolweave.errors import ModelError
from toolweave.models.interface import STOPPED
from toolweave.types import Message, ToolSpec


class Request(NamedTuple):
    """What a model was asked."""

    messages: list[Message]
    stop: tuple[str, ...]
    tools: tuple[ToolSpec, ...] = ()


class ScriptedModel:
    """Gives the replies in order, in pieces of `chunk` characters (None: whole), and keeps the requests."""

    def __init__(self, replies: Iterable[str], chunk: int | None = None) -> None:
        self.requests: list[Request] = []
        self._replies = list(replies)
        self._chunk = chunk

    def complete(
        self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec] = ()
    ) -> Generator[str, None, str]:
        """Yield the next reply, stop words and all. Raises ModelError when the script has ended."""
        number = len(self.requests)
        self.requests.append(Request([message.copy() for message in messages], tuple(stop), tuple(tools)))
        if number >= len(self._replies):
            raise ModelError(f"the script has {number} replies, and one more was asked for")
        reply = self._replies[number]
        size = self._chunk or max(len(reply), 1)
        for start in range(0, len(reply), size):
            yield reply[start : start + size]
        return STOPPED
