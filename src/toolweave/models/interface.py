"""What the agents ask of a model, and the stream that ends at a stop word."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Protocol

from toolweave.types import Message

STOPPED = "stop"


class Model(Protocol):
    """Anything that completes a conversation."""

    def complete(self, messages: Sequence[Message], stop: Sequence[str]) -> Iterator[str]:
        """Yield the reply in pieces.

        A generator may return the finish reason, in OpenAI's words (`stop`, `length`, …); without one it is `stop`.
        """


class StoppedStream:
    """The pieces of a reply up to the first stop word, also where the server does not honour `stop`.

    What could be the beginning of a stop word is held back until it is clear that it is not. After
    iterating, `text` is all that was yielded and `finish_reason` says why it ended.
    """

    def __init__(self, deltas: Iterator[str], stop: Sequence[str]) -> None:
        self.text = ""
        self.finish_reason = STOPPED
        self._deltas = deltas
        self._stop = tuple(word for word in stop if word)

    def __iter__(self) -> Iterator[str]:
        held = ""
        source = self._source()
        for delta in source:
            held += delta
            found = [at for word in self._stop if (at := held.find(word)) >= 0]
            if found:
                # Closing the source closes the connection: the server need not go on.
                source.close()
                self.finish_reason = STOPPED
                yield from self._take(held[: min(found)])
                return
            safe = len(held) - self._undecided(held)
            yield from self._take(held[:safe])
            held = held[safe:]
        yield from self._take(held)

    def _source(self) -> Generator[str, None, None]:
        if isinstance(self._deltas, Generator):
            self.finish_reason = (yield from self._deltas) or STOPPED
        else:
            yield from self._deltas

    def _take(self, text: str) -> Iterator[str]:
        if text:
            self.text += text
            yield text

    def _undecided(self, text: str) -> int:
        """Return how many characters at the end could begin a stop word."""
        sizes = (size for word in self._stop for size in range(1, len(word)) if text.endswith(word[:size]))
        return max(sizes, default=0)
