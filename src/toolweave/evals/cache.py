"""Replies on disk, by model and request: what was asked once is not asked again, so a broken-off run goes on."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
import openai

from toolweave.errors import DataError
from toolweave.models.client import ModelClient
from toolweave.models.interface import STOPPED, Model
from toolweave.types import Json, Message, ToolSpec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, finish TEXT NOT NULL,
    seconds REAL NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL
) WITHOUT ROWID
"""


class CachedReply(NamedTuple):
    """A reply as it came the first time, with what it cost then; tokens are 0 where the server counts none."""

    text: str
    finish: str
    seconds: float
    prompt_tokens: int
    completion_tokens: int


class ReplyCache:
    """A SQLite file of replies; several threads and processes may share it."""

    def __init__(self, path: Path | None) -> None:
        """Open or make the file; None keeps the replies in memory. Raises DataError for a file of another kind."""
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path or ":memory:", timeout=60, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"cannot use {path} as a cache: {error}", "name another file, or remove it") from error
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._db.close()

    def get(self, key: str) -> CachedReply | None:
        """Return the reply to a request, or None when it was never asked."""
        with self._lock:
            row = self._db.execute(
                "SELECT text, finish, seconds, prompt_tokens, completion_tokens FROM replies WHERE key = ?", (key,)
            ).fetchone()
        return CachedReply(*row) if row else None

    def put(self, key: str, reply: CachedReply) -> None:
        """Keep a reply."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?)", (key, *reply))


@dataclass(frozen=True, slots=True)
class Source:
    """A model to evaluate. `model_id` stands for its weights: replies of one id are taken for the same model's."""

    model: Model
    model_id: str
    settings: Mapping[str, Any]

    def key(self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec]) -> str:
        """Return the name of a request in the cache."""
        asked: list[Any] = [self.model_id, dict(self.settings), [dict(message) for message in messages], list(stop)]
        asked += [tool.openai() for tool in tools]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


class Metered:
    """A model of one visit: answers from the cache where it can, and adds up what the visit cost."""

    def __init__(self, source: Source, cache: ReplyCache) -> None:
        self.replies: list[CachedReply] = []
        self.made = 0
        self._source, self._cache = source, cache

    def complete(
        self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec] = ()
    ) -> Generator[str, None, str]:
        """Yield the reply whole and return its finish reason."""
        key = self._source.key(messages, stop, tools)
        reply = self._cache.get(key)
        if reply is None:
            reply = self._ask(messages, stop, tools)
            self._cache.put(key, reply)
            self.made += 1
        self.replies.append(reply)
        if reply.text:
            yield reply.text
        return reply.finish

    def _ask(self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec]) -> CachedReply:
        model = self._source.model
        started = time.monotonic()
        text, finish = _drain(model.complete(messages, stop, tools))
        seconds = time.monotonic() - started
        usage = model.usage() if isinstance(model, CountingClient) else (0, 0)
        return CachedReply(text, finish, seconds, *usage)


class _Usage(threading.local):
    """What the server said of the last reply in this thread: prompt and completion tokens."""

    tokens = (0, 0)

    def note(self, response: httpx.Response) -> None:
        """Read a response; zeros where it tells none."""
        response.read()
        try:
            usage: Json = response.json()["usage"]
            self.tokens = (int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
        except (ValueError, KeyError, TypeError):
            self.tokens = (0, 0)


class CountingClient(ModelClient):
    """A `ModelClient` that keeps what the server says about tokens."""

    def __init__(self, llm: Mapping[str, Any]) -> None:
        super().__init__({**llm, "support_stream": False})
        self._usage = _Usage()

    def usage(self) -> tuple[int, int]:
        """Return prompt and completion tokens of the last reply in this thread; zeros where none were told."""
        return self._usage.tokens

    @cached_property
    def _client(self) -> openai.OpenAI:
        http = openai.DefaultHttpxClient(event_hooks={"response": [self._usage.note]})
        # It would be left to the garbage collector with its connections open.
        weakref.finalize(self, http.close)
        return super()._client.with_options(http_client=http)


def _drain(deltas: Iterator[str]) -> tuple[str, str]:
    """Return (text, finish reason) of a reply."""
    pieces: list[str] = []
    while True:
        try:
            pieces.append(next(deltas))
        except StopIteration as end:
            return "".join(pieces), str(end.value or STOPPED)
