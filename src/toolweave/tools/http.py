"""HTTP for tools: JSON in, JSON out, time-outs always, and no secret in any error text."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import httpx

from toolweave.errors import ToolError
from toolweave.types import Json

# At INFO httpx logs whole URLs, and AMap's carry the key.
logging.getLogger("httpx").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Service:
    """A web service: `name` for messages, `key` is never shown, `timeout` in seconds for each request."""

    name: str
    base_url: str
    key: str = field(repr=False)
    timeout: float = 10.0

    def request(self, method: str, path: str, **options: Any) -> Json:
        """Return the JSON object that the service answers. Raises ToolError for anything else.

        httpx's own messages are not passed on and not chained: they hold the URL, and with it a key.
        """
        url = self.base_url.rstrip("/") + path
        try:
            response = httpx.request(method, url, timeout=self.timeout, **options)
        except httpx.TimeoutException:
            raise ToolError(f"{self.name} did not answer within {self.timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ToolError(f"cannot reach {self.name}: {type(error).__name__}") from None
        try:
            body = response.json()
        except ValueError:
            body = None
        if response.is_error:
            detail = body.get("message") or body.get("info") if isinstance(body, dict) else None
            raise self.error(f"HTTP {response.status_code}" + (f", {detail}" if detail else ""))
        if not isinstance(body, dict):
            raise self.error("something that is not a JSON object")
        return body

    def error(self, detail: object) -> ToolError:
        """Return a ToolError for what the service answered, with the key struck out."""
        text = str(detail)
        return ToolError(f"{self.name} answered: {text.replace(self.key, '***') if self.key else text}")
