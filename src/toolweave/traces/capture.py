"""The recording proxy: passes an OpenAI-compatible API through unchanged and records what was asked and answered.

An answer's last byte goes out after its record is committed. When that cannot be, the answer goes out all the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from toolweave.errors import ServerError
from toolweave.traces.database import StoreError
from toolweave.traces.recorder import Recorder
from toolweave.traces.redaction import secrets_of
from toolweave.traces.replies import read_reply
from toolweave.traces.trace import Exchange, Filter, Outcome
from toolweave.types import Json

log = logging.getLogger("toolweave.traces")

HEALTH_PATH = "/toolweave/health"
_RECORDED = ("/completions", "/chat/completions")
_CONNECT_SECONDS = 10.0
_HOUR = 3600.0
LOCK_SECONDS = 0.3  # how long the recorder waits for a lock, and the answers with it
_PATIENCE = 1.0  # how long a finished answer may wait for its record
_SHUTDOWN_SECONDS = 5
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")
_DONE_LENGTH = 16
# Headers that belong to one connection (RFC 9110, 7.6.1) and not to the message.
_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade expect host".split()
)  # fmt: skip


@dataclass(slots=True)
class _Answer:
    """What is known of an exchange while it runs."""

    request: Json
    secrets: tuple[str, ...]
    started: float = field(default_factory=time.time)
    begun: float = field(default_factory=time.perf_counter)
    first: float | None = None
    status: int = 502
    streamed: bool = False
    body: bytearray = field(default_factory=bytearray)
    recorded: bool = False

    def exchange(self, outcome: Outcome) -> Exchange:
        """Return the record."""
        reply = read_reply(bytes(self.body), streamed=self.streamed)
        if outcome is Outcome.CLIENT_LEFT and (reply.finish_reason or self._stopped(reply.text)):
            # It had all it wanted and did not wait for the end of the stream.
            outcome, reply = Outcome.ANSWERED, replace(reply, finish_reason=reply.finish_reason or "stop")
        elif outcome is Outcome.ANSWERED and self.status >= 400:
            outcome = Outcome.REFUSED
        latency = time.perf_counter() - self.begun
        first_token = self.first - self.begun if self.first is not None and self.streamed else None
        return Exchange(
            self.request, reply, self.started, latency, first_token, self.status, outcome, secrets=self.secrets
        )

    def _stopped(self, text: str) -> bool:
        stop = self.request.get("stop") or ()
        words = (stop,) if isinstance(stop, str) else stop
        return any(isinstance(word, str) and word and word in text for word in words)


class CaptureProxy:
    """An ASGI app in front of one upstream server, given by its base URL as an app would be given it (`…/v1`)."""

    def __init__(self, upstream: str, recorder: Recorder) -> None:
        self.upstream = _checked(upstream)
        self.recorder = recorder
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),  # the app's own time-outs hold
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=200),
        )

    async def close(self) -> None:
        """Close the connections to the upstream."""
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request through; when the app goes away, the upstream's work is ended too."""
        body = await _body(receive)
        if body is None:
            return
        answer = _answer(scope, body)
        relay = asyncio.ensure_future(self._relay(scope, body, answer, send))
        left = asyncio.ensure_future(_disconnected(receive))
        await asyncio.wait((relay, left), return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        if not relay.done():
            relay.cancel()
        with suppress(asyncio.CancelledError):
            await relay

    def url(self, path: str) -> str:
        """Return where a request for `path` goes: what follows /v1 is put behind the upstream's base URL."""
        parts = urlsplit(self.upstream)
        if parts.path and path.startswith("/v1/"):
            return self.upstream + path.removeprefix("/v1")
        return f"{parts.scheme}://{parts.netloc}{path}"

    async def _relay(self, scope: Scope, body: bytes, answer: _Answer | None, send: Send) -> None:
        try:
            request = httpx.Request(scope["method"], self._target(scope), headers=_headers(scope, answer), content=body)
            try:
                response = await self._client.send(request, stream=True)
            except httpx.TransportError as error:
                await self._record(answer, Outcome.BROKEN_OFF)
                await self._unreached(error, scope, send)
                return
            try:
                await self._pass(response, answer, send)
            finally:
                await response.aclose()
        except asyncio.CancelledError:
            if answer is not None and not answer.recorded:
                answer.recorded = True
                self.recorder.submit(answer.exchange(Outcome.CLIENT_LEFT))
            raise

    async def _pass(self, response: httpx.Response, answer: _Answer | None, send: Send) -> None:
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _HOP]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        if answer is not None:
            answer.status = response.status_code
            answer.streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        held = b""
        try:
            async for chunk in response.aiter_raw():
                if answer is None:
                    await send(_more(chunk))
                    continue
                answer.first = answer.first or time.perf_counter()
                tail = len(answer.body)
                answer.body += chunk
                if not answer.streamed:
                    held += chunk
                    continue
                if not answer.recorded and _DONE.search(answer.body, max(0, tail - _DONE_LENGTH)):
                    await self._record(answer, Outcome.ANSWERED)
                await send(_more(chunk))
        except httpx.TransportError as error:
            # What came is passed on, and then the same breaking off: no end of the body is sent.
            await self._record(answer, Outcome.BROKEN_OFF)
            log.warning("%s broke off: %s", self.upstream, str(error) or type(error).__name__)
            await send(_more(held))
            return
        await self._record(answer, Outcome.ANSWERED)
        await send({"type": "http.response.body", "body": held})

    async def _record(self, answer: _Answer | None, outcome: Outcome) -> None:
        """Wait for the record of an answer, but not for long."""
        if answer is None or answer.recorded:
            return
        answer.recorded = True
        future = asyncio.wrap_future(self.recorder.submit(answer.exchange(outcome)))
        await asyncio.wait([future], timeout=_PATIENCE)

    async def _unreached(self, error: httpx.TransportError, scope: Scope, send: Send) -> None:
        timed_out = isinstance(error, httpx.TimeoutException)
        message = f"toolweave capture: no answer from {self.upstream}: {str(error) or type(error).__name__}"
        log.warning("%s", message)
        content = {"error": {"message": message, "type": "upstream_error", "param": None, "code": None}}
        response = JSONResponse(content, 504 if timed_out else 502)
        await response(scope, _nothing, send)

    def _target(self, scope: Scope) -> str:
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        return self.url(path) + (f"?{query}" if query else "")


def create_app(upstream: str, recorder: Recorder, keep: float | None = None) -> Starlette:
    """Return the proxy with its health page at /toolweave/health. Raises ServerError for what is no URL.

    Traces older than `keep` seconds are forgotten, at the start and every hour.
    """
    proxy = CaptureProxy(upstream, recorder)

    async def health(_: Request) -> Response:
        return JSONResponse({**recorder.state.to_json(), "upstream": proxy.upstream})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        cleaning = asyncio.create_task(_clean(recorder, keep)) if keep is not None else None
        yield
        if cleaning is not None:
            cleaning.cancel()
        await proxy.close()

    return Starlette(routes=[Route(HEALTH_PATH, health), Mount("/", app=proxy)], lifespan=lifespan)


def capture(
    upstream: str, recorder: Recorder, host: str = "127.0.0.1", port: int = 8001, keep: float | None = None
) -> None:
    """Run the proxy until interrupted; port 0 takes a free one. Raises ServerError when the port cannot be had."""
    app = create_app(upstream, recorder, keep)
    try:
        listener = socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise ServerError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}", "choose another --port"
        ) from error
    with listener:
        # Connections inherit it. asyncio sets it only where the socket names its protocol, which this one does not: a
        # first token on the heels of the headers would wait 40 ms for their acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The writing thread must not keep the answers waiting for a whole default slice of 5 ms.
        sys.setswitchinterval(0.0005)
        url = "http://{}:{}".format(*listener.getsockname()[:2])
        print(
            f"toolweave records {upstream} to {recorder.store.path} (Ctrl+C stops it). "
            f"Give your app OPENAI_BASE_URL={url}/v1; {url}{HEALTH_PATH} shows what was recorded",
            flush=True,
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            ws="none",
        )
        # uvicorn raises the signal again when it has shut down; what waits for the store must still be written then.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        uvicorn.Server(config).run(sockets=[listener])


async def _clean(recorder: Recorder, keep: float) -> None:
    while True:
        try:
            count = await asyncio.to_thread(recorder.store.forget, Filter(until=time.time() - keep))
        except StoreError as error:
            log.warning("old traces are not forgotten yet: %s", error)
        else:
            log.info("forgot %d traces", count)
        await asyncio.sleep(_HOUR)


def _checked(upstream: str) -> str:
    parts = urlsplit(upstream)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.username:
        raise ServerError(
            f"{upstream!r} is no server's URL", "it is what the app uses, such as http://127.0.0.1:8000/v1"
        )
    return upstream.rstrip("/")


def _answer(scope: Scope, body: bytes) -> _Answer | None:
    """Return what will be recorded of a request; None for what holds nothing to train on."""
    if scope["method"] != "POST" or not scope["path"].endswith(_RECORDED):
        return None
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(request, dict):
        return None
    return _Answer(request, secrets_of(scope["headers"], scope["query_string"]))


def _headers(scope: Scope, answer: _Answer | None) -> list[tuple[bytes, bytes]]:
    left_out = _HOP | {b"accept-encoding"} if answer is not None else _HOP
    headers = [(name, value) for name, value in scope["headers"] if name not in left_out]
    # What is recorded must be read, so it comes uncompressed.
    return [*headers, (b"accept-encoding", b"identity")] if answer is not None else headers


def _more(chunk: bytes) -> Json:
    return {"type": "http.response.body", "body": chunk, "more_body": True}


async def _body(receive: Receive) -> bytes | None:
    """Return the request's body; None when the app went away before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing() -> Json:
    return {"type": "http.disconnect"}
