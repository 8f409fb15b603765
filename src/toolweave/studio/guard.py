"""Who may ask: users by a session's cookie or HTTP Basic, clients of one agent by its key, and no page of another site.

Without users, there is one, the local user. A request that changes something and says that it comes from another
site is refused, and so are, on a loopback address, names that are not loopback's (DNS rebinding).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from toolweave.agents.spec import LOCAL_USER
from toolweave.errors import ToolweaveError
from toolweave.studio.workspace import part

SESSION_COOKIE = "studio_session"
SHARE_COOKIE = "studio_share"
_SAFE = ("GET", "HEAD", "OPTIONS")
# What needs no user: signing in, pictures that are drawn here, and what has a key of its own.
_OPEN = ("/login", "/share/", "/pictures/", "/favicon.ico")


class Users:
    """The users that may sign in, by password; none: only the local user, who need not."""

    def __init__(self, passwords: Mapping[str, str] | None = None) -> None:
        self._passwords = dict(passwords or {})
        self._sessions: dict[str, str] = {}

    @classmethod
    def read(cls, pairs: list[str]) -> Users:
        """Read `name:password` pairs. Raises ToolweaveError for anything else."""
        passwords: dict[str, str] = {}
        for pair in pairs:
            name, colon, password = pair.partition(":")
            if not colon or not password:
                raise ToolweaveError("--auth takes name:password", "give both")
            passwords[part(name)] = password
        return cls(passwords)

    @property
    def open(self) -> bool:
        """Whether nobody needs to sign in."""
        return not self._passwords

    def sign_in(self, name: str, password: str) -> str | None:
        """Return the token of a new session, None for a wrong password."""
        if not self._right(name, password):
            return None
        token = secrets.token_urlsafe(32)
        self._sessions[token] = name
        return token

    def sign_out(self, token: str) -> None:
        """End a session."""
        self._sessions.pop(token, None)

    def of(self, connection: HTTPConnection) -> str | None:
        """Return the user who asks, None for somebody unknown."""
        if self.open:
            return LOCAL_USER
        if (name := self._sessions.get(connection.cookies.get(SESSION_COOKIE, ""))) is not None:
            return name
        kind, _, given = connection.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            name, _, password = base64.b64decode(given).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return name if self._right(name, password) else None

    def _right(self, name: str, password: str) -> bool:
        # An unknown name takes as long as a wrong password.
        return hmac.compare_digest(self._passwords.get(name, secrets.token_hex()).encode(), password.encode())


class Guard:
    """ASGI middleware: refuses requests from other sites, and those of nobody."""

    def __init__(self, app: ASGIApp, users: Users) -> None:
        self._app = app
        self._users = users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refused = self._refusal(request)
        await (self._app(scope, receive, send) if refused is None else refused(scope, receive, send))

    def _refusal(self, request: Request) -> Response | None:
        if request.method not in _SAFE and _foreign(request):
            return JSONResponse({"error": "the request comes from another site"}, 403)
        path = request.url.path
        keyed = path.startswith("/agents/") and "/v1/" in path
        if keyed or path.startswith(_OPEN) or self._users.of(request) is not None:
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        return JSONResponse({"error": "sign in first"}, 401)


def _foreign(request: Request) -> bool:
    origin = request.headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc != request.headers.get("host")
    return request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
