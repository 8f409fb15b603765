"""Web search: the Bing v7 protocol, as upstream, or a SearxNG instance."""

from __future__ import annotations

import json
import os
from typing import Any

from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool
from toolweave.tools.http import Place, Service
from toolweave.tools.registry import register_tool
from toolweave.types import Json

_BING = Place(
    "Bing",
    "https://api.bing.microsoft.com/v7.0/search",
    url_variable="BING_SEARCH_V7_ENDPOINT",
    key_variable="BING_SEARCH_V7_SUBSCRIPTION_KEY",
    key_names=("api_key",),
    key_hint="set it, or SEARXNG_URL to search with a SearxNG instance",
)


@register_tool("web_search")
class WebSearch(BaseTool):
    """The first pages found for a query.

    `cfg`: `searcher` (bing or searxng; searxng where only SEARXNG_URL is set), `base_url` (or environment
    BING_SEARCH_V7_ENDPOINT, SEARXNG_URL), `api_key` (or BING_SEARCH_V7_SUBSCRIPTION_KEY), `mkt` (market, en-US),
    `count` (5) and `timeout` in seconds.
    """

    name = "web_search"
    description = (
        "surfacing relevant information from billions of web documents. Help you find what you are looking for from "
        "the world-wide-web to comb billions of webpages, images, videos, and news."
    )
    parameters = (
        {
            "name": "query",
            "type": "string",
            "description": "The user's search query term. The term may not be empty.",
            "required": True,
        },
    )

    def call(self, params: str, **kwargs: Any) -> str:
        """Return a JSON list of `{title, link, sniper}`, the last as upstream spells it. Raises ToolError."""
        query = self._verify_args(params)["query"].strip()
        if not query:
            raise ToolError("query is empty")
        count = int(self.cfg.get("count", 5))
        found = [page for page in self._search(query, count) if page["link"]][:count]
        return json.dumps(found, ensure_ascii=False)

    def _search(self, query: str, count: int) -> list[Json]:
        timeout = float(self.cfg.get("timeout", 10))
        searcher = self.cfg.get("searcher") or "bing"
        no_bing = not self.cfg.get("api_key") and not os.environ.get(_BING.key_variable)
        if searcher == "searxng" or (searcher == "bing" and no_bing and os.environ.get("SEARXNG_URL")):
            return _searxng(self.cfg.get("base_url") or os.environ.get("SEARXNG_URL", ""), query, timeout)
        if searcher != "bing":
            raise ToolError(f"unknown searcher {searcher!r}", "choose bing or searxng")
        service = _BING.service(self.cfg, timeout)
        headers = {"Ocp-Apim-Subscription-Key": service.key}
        query_string = {"q": query, "mkt": str(self.cfg.get("mkt", "en-US")), "count": str(count)}
        answer = service.request("GET", "", params=query_string, headers=headers)
        if answer.get("error"):
            raise service.error(answer["error"].get("message") or "an error")
        pages = (answer.get("webPages") or {}).get("value") or []
        return [_page(page.get("name"), page.get("url"), page.get("snippet")) for page in pages]


def _searxng(base_url: str, query: str, timeout: float) -> list[Json]:
    if not base_url:
        raise ToolError("SEARXNG_URL is not set", "set it to the address of a SearxNG instance that answers JSON")
    service = Service("SearxNG", base_url, "", timeout)
    answer = service.request("GET", "/search", params={"q": query, "format": "json"})
    return [_page(page.get("title"), page.get("url"), page.get("content")) for page in answer.get("results") or []]


def _page(title: object, link: object, snippet: object) -> Json:
    return {"title": str(title or ""), "link": str(link or ""), "sniper": str(snippet or "")}
