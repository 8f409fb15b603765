"""One operation of a web API as a tool."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import httpx

from toolweave.errors import ToolError
from toolweave.tools.base import Effect
from toolweave.tools.net import Answer, Bounds, send
from toolweave.tools.openapi.auth import Placement
from toolweave.tools.simulate import SpecTool
from toolweave.types import Json, ToolSpec

_MAX_OUTPUT = 4_000
_BOUNDS = Bounds(seconds=30)
_EFFECTS = {"get": Effect.READ, "head": Effect.READ, "options": Effect.READ, "delete": Effect.DANGEROUS}


class In(StrEnum):
    """Where a parameter goes."""

    PATH = "path"
    QUERY = "query"
    HEADER = "header"
    COOKIE = "cookie"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument of the tool (`argument`) and the parameter of the API (`name`) that it becomes.

    `separator` joins the items of an array; None repeats the parameter for each.
    """

    argument: str
    name: str
    place: In
    separator: str | None = ","


@dataclass(frozen=True, slots=True)
class Operation:
    """What a request is made of. `body_type` is the media type of the body, empty without one.

    `body_argument` is the one argument that is the whole body; without it the arguments in `In.BODY` are its fields.
    """

    method: str
    server: str
    path: str
    parameters: tuple[Parameter, ...]
    body_type: str = ""
    body_argument: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    placement: Placement = field(default=Placement(), repr=False)


class OpenAPITool(SpecTool):
    """Calls one operation. The key is that of one agent: it lives in this object, and nowhere else."""

    def __init__(
        self,
        spec: ToolSpec,
        operation: Operation,
        result: Callable[[], Json | None] = lambda: None,
        bounds: Bounds = _BOUNDS,
    ) -> None:
        super().__init__(spec)
        self.operation = operation
        self.effect = _EFFECTS.get(operation.method, Effect.WRITE)
        self._result = result
        self._bounds = bounds

    def result_schema(self) -> Json | None:
        """Return the schema of the operation's answer, if the document has one."""
        return self._result()

    def call(self, params: str, **kwargs: Any) -> str:
        """Return what the API answers. Raises ToolError with its message, and never a key."""
        operation = self.operation
        url, request = _request(operation, self._verify_args(params))
        try:
            answer = send(operation.method.upper(), url, bounds=self._bounds, **request)
        except httpx.TimeoutException:
            raise ToolError(f"{self.name} did not answer within {self._bounds.seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ToolError(f"cannot reach {self.name}: {type(error).__name__}") from None
        return self._read(answer)

    def _read(self, answer: Answer) -> str:
        text = answer.content.decode("utf-8", "replace").strip()
        if "json" in answer.headers.get("content-type", ""):
            with suppress(ValueError, RecursionError):  # otherwise as it came
                text = json.dumps(json.loads(text), ensure_ascii=False)
        text = self._redacted(text if len(text) <= _MAX_OUTPUT else text[:_MAX_OUTPUT] + "…")
        if 300 <= answer.status < 400:
            # A redirect would take the key along.
            raise ToolError(f"{self.name} answered HTTP {answer.status}, a redirect, which is not followed")
        if answer.status >= 400:
            raise ToolError(f"{self.name} answered HTTP {answer.status}: {text[:500] or '(nothing)'}")
        return text or f"(HTTP {answer.status})"

    def _redacted(self, text: str) -> str:
        placed = self.operation.placement
        for _, value in (*placed.headers, *placed.query, *placed.cookies):
            for secret in {value, value.partition(" ")[2]}:
                text = text.replace(secret, "***") if secret else text
        return text


def _request(operation: Operation, arguments: Json) -> tuple[str, Json]:
    """Return the URL and httpx's options."""
    path = operation.path
    query: list[tuple[str, str]] = []
    headers = dict(operation.headers)
    cookies: list[tuple[str, str]] = []
    fields: Json = {}
    for parameter in operation.parameters:
        if parameter.argument not in arguments:
            continue
        value = arguments[parameter.argument]
        match parameter.place:
            case In.PATH:
                path = path.replace(f"{{{parameter.name}}}", _path_part(parameter, value))
            case In.QUERY:
                query += _pairs(parameter, value)
            case In.HEADER:
                headers[parameter.name] = _header(parameter.name, value)
            case In.COOKIE:
                cookies.append((parameter.name, quote(_plain(value), safe="")))
            case In.BODY:
                fields[parameter.name] = value
    placed = operation.placement
    headers |= dict(placed.headers)
    cookies += placed.cookies
    if cookies:
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies)
    request: Json = {"headers": headers, "params": [*query, *placed.query]}
    body = arguments.get(operation.body_argument) if operation.body_argument else fields
    if operation.body_type and body not in (None, {}):
        request |= _body(operation.body_type, body, headers)
    return operation.server.rstrip("/") + path, request


def _body(media_type: str, body: Any, headers: dict[str, str]) -> Json:
    if media_type == "application/x-www-form-urlencoded" and isinstance(body, Mapping):
        return {"data": {name: _plain(value) for name, value in body.items()}}
    if media_type == "multipart/form-data" and isinstance(body, Mapping):
        return {"files": {name: (None, _plain(value)) for name, value in body.items()}}
    headers["Content-Type"] = media_type
    is_text = media_type.startswith("text/") and isinstance(body, str)
    return {"content": (body if is_text else json.dumps(body, ensure_ascii=False)).encode()}


def _path_part(parameter: Parameter, value: Any) -> str:
    text = (parameter.separator or ",").join(map(_plain, value)) if isinstance(value, list) else _plain(value)
    # These would lead out of the path of the operation.
    if text in ("", ".", ".."):
        raise ToolError(f"{parameter.argument} cannot be {text!r}")
    return quote(text, safe="")


def _pairs(parameter: Parameter, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, list):
        texts = [_plain(item) for item in value]
        if parameter.separator is None:
            return [(parameter.name, text) for text in texts]
        return [(parameter.name, parameter.separator.join(texts))]
    if isinstance(value, Mapping):
        return [(f"{parameter.name}[{key}]", _plain(item)) for key, item in value.items()]
    return [(parameter.name, _plain(value))]


def _header(name: str, value: Any) -> str:
    text = ",".join(map(_plain, value)) if isinstance(value, list) else _plain(value)
    if not text.isprintable() or not text.isascii():
        raise ToolError(f"{name} has characters that a header cannot have")
    return text


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
