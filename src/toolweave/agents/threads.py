"""Between threads and the event loop: sync code waited for without blocking, async code iterated without a loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from functools import cache
from queue import Empty, SimpleQueue
from typing import TypeVar

from toolweave.models.interface import STOPPED, Finished

T = TypeVar("T")
_GLANCE = 0.02  # seconds between two looks at `cancel`


class Cancelled(Exception):  # noqa: N818 - it is no error
    """The reader's `cancel` was set."""


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Run `work` in a thread of its own. A thread that hangs is left behind, and does not keep the process."""
    future: Future[T] = Future()
    # From here on the future cannot be cancelled, only no longer waited for.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


async def from_thread(deltas: Callable[[], Iterator[str]]) -> AsyncGenerator[str | Finished, None]:
    """Iterate a model's sync reply in a thread; closed early, the thread ends at the next piece."""
    loop, left = asyncio.get_running_loop(), threading.Event()
    mailbox: asyncio.Queue[str | Finished | BaseException] = asyncio.Queue()

    def put(item: str | Finished | BaseException) -> None:
        if not left.is_set():
            loop.call_soon_threadsafe(mailbox.put_nowait, item)

    def read() -> None:
        try:
            source, reason = deltas(), STOPPED
            try:
                while not left.is_set():
                    put(next(source))
            except StopIteration as end:
                reason = end.value or STOPPED
            finally:
                if isinstance(source, Generator):
                    source.close()
            put(Finished(reason))
        except BaseException as error:
            put(error)

    in_thread(read)
    try:
        while True:
            item = await mailbox.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, Finished):
                return
    finally:
        left.set()


def iterate(events: AsyncGenerator[T, None], cancel: threading.Event | None = None) -> Iterator[T]:
    """Iterate an async generator from sync code, on the event loop that all of the process shares.

    Closing the iterator cancels the generator at once. Raises Cancelled soon after `cancel` is set.
    """
    mailbox: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()

    async def pump() -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    mailbox.put((event,))
        except Exception as error:
            mailbox.put(error)
        else:
            mailbox.put(None)

    running = asyncio.run_coroutine_threadsafe(pump(), _shared_loop())
    try:
        while True:
            if cancel is not None and cancel.is_set():
                raise Cancelled
            try:
                item = mailbox.get(timeout=None if cancel is None else _GLANCE)
            except Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        running.cancel()


@cache
def _shared_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="toolweave-visits", daemon=True).start()
    return loop


def as_async(deltas: AsyncIterator[str | Finished]) -> AsyncGenerator[str | Finished, None]:
    """Return an async iterator as a generator, which can be closed."""
    if isinstance(deltas, AsyncGenerator):
        return deltas

    async def generate() -> AsyncGenerator[str | Finished, None]:
        async for delta in deltas:
            yield delta

    return generate()
