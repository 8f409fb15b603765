"""One request as its caller sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from queue import Empty, SimpleQueue

from torch import Tensor

from toolweave.errors import ServerError, ToolweaveError
from toolweave.serving.guide import Guide
from toolweave.serving.sampling import SamplingParams


class DeadlineError(ServerError):
    """A request that took longer than the server allows."""


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Usage:
    """Token counts of a request. `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that was chosen, its log-probability, and the likeliest tokens in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, token: int, logits: Tensor, top: int) -> TokenLogprob:
        """Measure a token by the model's own logits [vocabulary], before temperature and limits."""
        scores = logits.float().log_softmax(-1)
        values, ids = scores.topk(top)
        return cls(token, float(scores[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is certain now, and the tokens chosen since the last piece."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class Generation:
    """A running request: iterate for text deltas (blocking), `cancel()` to give it up.

    After the last delta `finish_reason` is set and `usage` is final. Iterating raises ServerError
    when the engine failed or was closed. `guide` limits what may be said; a request that is not
    done after `seconds` ends with DeadlineError.
    """

    def __init__(
        self, prompt: Sequence[int], params: SamplingParams, guide: Guide | None = None, seconds: float | None = None
    ) -> None:
        self.prompt = list(prompt)
        self.params = params
        self.guide = guide
        self.usage = Usage(len(self.prompt))
        self.finish_reason: FinishReason | None = None
        self.cancelled = False
        self._seconds = seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._items: SimpleQueue[Piece | FinishReason | ToolweaveError] = SimpleQueue()
        self._wake: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[str]:
        """Yield text as it comes; what came at once comes in one piece."""
        while self.finish_reason is None:
            if text := self._take(block=True).text:
                yield text

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield what came at once in one piece, as the iterator does, without blocking the event loop."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            # The client may be gone, and its loop closed, when the last token comes.
            if not event.is_set() and not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

        self._wake = wake
        while self.finish_reason is None:
            event.clear()
            piece = self._take(block=False)
            if piece.text or piece.logprobs:
                yield piece
            elif self.finish_reason is None:
                await event.wait()

    def cancel(self) -> None:
        """Give the request up: its place is free after the step that runs now."""
        self.cancelled = True

    def given_up(self) -> FinishReason | ToolweaveError | None:
        """Return how a request ends that nobody waits for, or that ran out of time; None if it goes on."""
        if self.cancelled:
            return FinishReason.CANCELLED
        if self._deadline is not None and time.monotonic() > self._deadline:
            return DeadlineError(f"the request was not done within {self._seconds:g} s", "ask for fewer tokens")
        return None

    def put(self, piece: Piece) -> None:
        """Deliver a piece (the engine's side)."""
        if piece.text or piece.logprobs:
            self._items.put(piece)
            self._wake()

    def end(self, how: FinishReason | ToolweaveError) -> None:
        """Deliver the end (the engine's side)."""
        self._items.put(how)
        self._wake()

    def _take(self, *, block: bool) -> Piece:
        """Return all that waits in one piece; set the finish reason, or raise the error, if it is among it."""
        text, logprobs = "", list[TokenLogprob]()
        try:
            item = self._items.get(block)
            while isinstance(item, Piece):
                text += item.text
                logprobs += item.logprobs
                item = self._items.get_nowait()
        except Empty:
            return Piece(text, tuple(logprobs))
        if isinstance(item, FinishReason):
            self.finish_reason = item
        elif text:
            # The error comes after the text before it.
            self._items.put(item)
        else:
            self.finish_reason = FinishReason.CANCELLED
            raise item
        return Piece(text, tuple(logprobs))
