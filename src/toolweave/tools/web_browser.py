"""Web pages as text."""

from __future__ import annotations

import re
from typing import Any

import httpx
from bs4 import BeautifulSoup

from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool
from toolweave.tools.net import Answer, Bounds, send
from toolweave.tools.registry import register_tool

_HEADERS = {"User-Agent": "toolweave", "Accept": "text/html, text/plain, application/json;q=0.9"}
_TEXTS = ("text/", "application/json", "application/xml", "application/xhtml+xml")
_UNSEEN = ("script", "style", "noscript", "template", "svg", "head")
_MAX_PAGES = 3


@register_tool("web_browser")
class WebBrowser(BaseTool):
    """Fetches pages and keeps what a reader sees of them.

    `cfg`: `max_browser_length` (characters, 2000) and `timeout` in seconds for each page (15).
    """

    name = "web_browser"
    description = "网页浏览器，能根据网页url浏览网页并返回网页内容。"
    parameters = (
        {
            "name": "urls",
            "type": "string",
            "description": "the urls that the user wants to browse",
            "required": True,
        },
    )

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the text of up to three pages. Raises ToolError for an address that may not be visited."""
        urls = [url for url in re.split(r"[\s,，\"'\[\]<>]+", self._verify_args(params)["urls"]) if url]
        if not urls:
            raise ToolError("urls is empty")
        pages = "\n".join(self._read(url) for url in urls[:_MAX_PAGES])
        return pages[: int(self.cfg.get("max_browser_length", 2000))]

    def _read(self, url: str) -> str:
        url = url if "://" in url else f"https://{url}"
        bounds = Bounds(float(self.cfg.get("timeout", 15)), redirects=5)
        try:
            answer = send("GET", url, bounds=bounds, headers=_HEADERS)
        except httpx.TimeoutException:
            raise ToolError(f"{url} did not answer within {bounds.seconds:g} s") from None
        except httpx.TooManyRedirects:
            raise ToolError(f"{url} redirects too often") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise ToolError(f"cannot reach {url}: {type(error).__name__}") from None
        if answer.status >= 400:
            raise ToolError(f"{url} answered HTTP {answer.status}")
        return page_text(answer)


def page_text(answer: Answer) -> str:
    """Return what a reader sees of a page. Raises ToolError for what is not text."""
    kind = answer.headers.get("content-type", "text/html").partition(";")[0].strip().lower()
    if not kind.startswith(_TEXTS):
        raise ToolError(f"{answer.url} is {kind}, not a page of text")
    if "html" not in kind:
        try:
            return answer.content.decode(answer.encoding, "replace").strip()
        except LookupError:
            return answer.content.decode("utf-8", "replace").strip()
    try:
        soup = BeautifulSoup(answer.content, "html.parser")
        title = soup.title.get_text(" ", strip=True) if soup.title else ""
        for element in soup(_UNSEEN):
            element.decompose()
        lines = (" ".join(line.split()) for line in soup.get_text("\n").splitlines())
    except RecursionError:
        raise ToolError(f"{answer.url} is nested too deeply to be read") from None
    return "\n".join(line for line in (title, *lines) if line)
