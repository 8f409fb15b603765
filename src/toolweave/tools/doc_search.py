"""Search in the agent's knowledge files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool


class Passage(Protocol):
    """A piece of a document."""

    @property
    def text(self) -> str:
        """What it says."""

    @property
    def source(self) -> str:
        """Which document it is from, and where in it."""


class Index(Protocol):
    """Anything that finds passages."""

    def search(self, query: str, k: int) -> Sequence[Passage]:
        """Return the `k` passages that fit best, the best first."""


class DocSearch(BaseTool):
    """Looks a question up in one agent's documents; `k` passages are shown. Made with its index, never by name."""

    name = "doc_search"
    description = "从知识库文档中检索和问题相关的部分，从而辅助回答问题"
    parameters = ({"name": "query", "type": "string", "description": "待检索的问题", "required": True},)

    def __init__(self, index: Index, k: int = 4) -> None:
        super().__init__()
        self._index = index
        self._k = k

    def call(self, params: str, **kwargs: Any) -> str:
        """Return a JSON list of `{source, text}`. Raises ToolError when nothing fits."""
        query = self._verify_args(params)["query"]
        passages = self._index.search(query, self._k)
        if not passages:
            raise ToolError("the documents say nothing about that")
        found = [{"source": passage.source, "text": passage.text} for passage in passages]
        return json.dumps(found, ensure_ascii=False)
