"""HTTP for tools: JSON in, JSON out, time-outs always, and no secret in any error text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from toolweave.errors import ToolError
from toolweave.tools.net import Answer, Bounds, send
from toolweave.types import Json


@dataclass(frozen=True, slots=True)
class Place:
    """Where a web service is found and which environment variables hold its URL and key."""

    name: str
    url: str
    url_variable: str
    key_variable: str
    key_names: tuple[str, ...]
    key_hint: str

    def service(self, cfg: Mapping[str, Any], timeout: float = 10.0) -> Service:
        """Return the service as configured. Raises ToolError without a key.

        A `base_url` of `cfg` needs a key of `cfg`: a spec from somewhere else must not send our key elsewhere.
        """
        key = next((str(cfg[name]) for name in self.key_names if cfg.get(name)), "")
        base_url = cfg.get("base_url")
        if base_url and not key:
            raise ToolError(
                f"{self.name} at {base_url} has no key of its own, and {self.key_variable} is not sent there",
                f"set {self.key_names[0]} beside base_url, or give the URL in {self.url_variable}",
            )
        key = key or os.environ.get(self.key_variable, "")
        if not key:
            raise ToolError(f"{self.key_variable} is not set: {self.key_hint}")
        return Service(self.name, base_url or os.environ.get(self.url_variable) or self.url, key, timeout)


@dataclass(frozen=True, slots=True)
class Service:
    """A web service: `name` for messages, `key` is never shown, `timeout` in seconds for each request."""

    name: str
    base_url: str
    key: str = field(repr=False)
    timeout: float = 10.0

    def request(self, method: str, path: str, **options: Any) -> Json:
        """Return the JSON object that the service answers. Raises ToolError for anything else."""
        answer = self.send(method, path, **options)
        body = parse_json(answer)
        if answer.status >= 400:
            detail = (body.get("message") or body.get("info")) if isinstance(body, dict) else None
            raise self.error(f"HTTP {answer.status}" + (f", {detail}" if detail else ""))
        if not isinstance(body, dict):
            raise self.error("something that is not a JSON object")
        return body

    def send(self, method: str, path: str, **options: Any) -> Answer:
        """Return whatever the service answers. Raises ToolError when it cannot be reached.

        httpx's own messages are not passed on and not chained: they hold the URL, and with it a key.
        """
        url = path if "://" in path else self.base_url.rstrip("/") + path
        try:
            return send(method, url, bounds=Bounds(self.timeout), **options)
        except httpx.TimeoutException:
            raise ToolError(f"{self.name} did not answer within {self.timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ToolError(f"cannot reach {self.name}: {type(error).__name__}") from None

    def error(self, detail: object) -> ToolError:
        """Return a ToolError for what the service answered, with the key struck out."""
        text = str(detail)
        return ToolError(f"{self.name} answered: {text.replace(self.key, '***') if self.key else text}")


def parse_json(answer: Answer) -> Any:
    """Return the JSON value of an answer, None where it is not JSON."""
    try:
        return json.loads(answer.content)
    except (ValueError, RecursionError):
        return None
