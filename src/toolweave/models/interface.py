"""What the agents ask of a model, and the stream that ends at a stop word."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from toolweave.types import Message, ToolSpec

STOPPED = "stop"


class Model(Protocol):
    """Anything that completes a conversation."""

    def complete(
        self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec] = ()
    ) -> Iterator[str]:
        """Yield the reply in pieces.

        `tools` are given only where the dialect leaves them to the server. A generator may return the finish
        reason, in OpenAI's words (`stop`, `length`, …); without one it is `stop`.
        """


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an asynchronous reply, and its finish reason."""

    reason: str = STOPPED


@runtime_checkable
class AsyncModel(Protocol):
    """A model that can also be asked without a thread, and be interrupted at once by cancelling the task."""

    def acomplete(
        self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec] = ()
    ) -> AsyncIterator[str | Finished]:
        """Yield the reply in pieces; `Finished` may come last."""


class StopFilter:
    """Cuts a reply at the first stop word, also where the server does not honour `stop`.

    What could be the beginning of a stop word is held back until it is clear that it is not. `text` is all that
    was let through, `stopped` tells that a stop word came.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.text = ""
        self.stopped = False
        self._held = ""
        self._stop = tuple(word for word in stop if word)

    def feed(self, delta: str) -> str:
        """Return what can be shown now that `delta` has come."""
        held = self._held + delta
        found = [at for word in self._stop if (at := held.find(word)) >= 0]
        self.stopped = bool(found)
        safe = min(found) if found else len(held) - self._undecided(held)
        self._held = "" if found else held[safe:]
        return self._let_through(held[:safe])

    def end(self) -> str:
        """Return what was held back, as no more will come."""
        held, self._held = self._held, ""
        return self._let_through(held)

    def _let_through(self, text: str) -> str:
        self.text += text
        return text

    def _undecided(self, text: str) -> int:
        """Return how many characters at the end could begin a stop word."""
        sizes = (size for word in self._stop for size in range(1, len(word)) if text.endswith(word[:size]))
        return max(sizes, default=0)


class StoppedStream:
    """The pieces of a reply up to the first stop word.

    After iterating, `text` is all that was yielded and `finish_reason` says why it ended.
    """

    def __init__(self, deltas: Iterator[str], stop: Sequence[str]) -> None:
        self.finish_reason = STOPPED
        self._deltas = deltas
        self._filter = StopFilter(stop)

    @property
    def text(self) -> str:
        """What was yielded so far."""
        return self._filter.text

    def __iter__(self) -> Iterator[str]:
        source = self._source()
        try:
            for delta in source:
                if shown := self._filter.feed(delta):
                    yield shown
                if self._filter.stopped:
                    self.finish_reason = STOPPED
                    return
            if held := self._filter.end():
                yield held
        finally:
            # Closing the source closes the connection: the server need not go on.
            source.close()

    def _source(self) -> Generator[str, None, None]:
        if isinstance(self._deltas, Generator):
            self.finish_reason = (yield from self._deltas) or STOPPED
        else:
            yield from self._deltas
