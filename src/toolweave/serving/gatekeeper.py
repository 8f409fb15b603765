"""Who may ask, how much at once, and how large: everything that is decided before a request is read."""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toolweave.errors import ServerError
from toolweave.serving.replies import error_json

_INVALID = "invalid_request_error"
_OPEN_PATHS = ("/health", "/metrics")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server lets in. Raises ServerError for values that make no sense."""

    max_queue: int = 256
    """Replies that may wait for a place in the batch; a request beyond is answered with 429."""
    request_seconds: float = 600
    """A request that takes longer is given up."""
    body_bytes: int = 4 * 1024 * 1024
    """A larger body is answered with 413."""
    api_key: str | None = None
    """The key that clients must send as `Authorization: Bearer …`; None asks for none."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages that may ask (CORS)."""
    allowed_hosts: tuple[str, ...] = ()
    """Values of `Host` that are answered; none given answers all."""

    def __post_init__(self) -> None:
        if self.max_queue < 0 or self.request_seconds <= 0 or self.body_bytes <= 0:
            raise ServerError("max_queue, request_seconds and body_bytes must be positive")
        if self.api_key is not None and not self.api_key.strip():
            raise ServerError("the API key is empty", "leave it out to ask for none")


class QueueFullError(ServerError):
    """Too many requests at once; `retry_after` seconds later there may be room."""

    def __init__(self, open_replies: int, retry_after: int) -> None:
        super().__init__(f"the server is busy with {open_replies} requests", f"try again in {retry_after} s")
        self.retry_after = retry_after


class Admission:
    """Counts the replies that are under way, on the event loop, and refuses those beyond `places`."""

    def __init__(self, batch: int, queue: int) -> None:
        self.open = 0
        self._batch = batch
        self._places = batch + queue
        self._seconds = 1.0  # of a request, a moving average

    @contextmanager
    def admit(self, replies: int) -> Iterator[Callable[[float], None]]:
        """Hold places for a request's replies; call what is yielded with the seconds that it took.

        Raises QueueFullError when there is no room.
        """
        if self.open + replies > self._places:
            wait = self._seconds * max(1, self.open) / self._batch
            raise QueueFullError(self.open, min(60, max(1, math.ceil(wait))))
        self.open += replies
        try:
            yield self._took
        finally:
            self.open -= replies

    def _took(self, seconds: float) -> None:
        self._seconds += 0.1 * (seconds - self._seconds)


class Gatekeeper:
    """ASGI middleware: the API key in constant time, bodies of bounded size; `answered` hears of every status."""

    def __init__(self, app: ASGIApp, limits: Limits, answered: Callable[[int], None]) -> None:
        self._app = app
        self._limits = limits
        self._answered = answered
        self._expected = f"Bearer {limits.api_key}".encode() if limits.api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limits.body_bytes:
                raise HTTPException(413, self._too_large)
            return message

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(message["status"])
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        await (refusal or self._app)(scope, bounded, counted)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        given = headers.get("authorization", "").encode("latin-1", "replace")
        if self._expected is not None and not hmac.compare_digest(given, self._expected):
            body = error_json("a valid API key is needed", kind=_INVALID, code="invalid_api_key")
            return JSONResponse(body, 401, headers={"www-authenticate": "Bearer"})
        length = headers.get("content-length", "")
        if length.isdigit() and (len(length) > 18 or int(length) > self._limits.body_bytes):
            return JSONResponse(error_json(self._too_large, kind=_INVALID), 413)
        return None

    @property
    def _too_large(self) -> str:
        return f"the request is larger than {self._limits.body_bytes} bytes"
