"""A model that knows the right reply to every request of some visits, in this process or behind HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI

from stub_server import serve
from toolweave.dialects import get_dialect
from toolweave.evals.cases import Visit
from toolweave.types import Message, ToolSpec

Answer = Callable[[Sequence[Message]], str]


class Oracle:
    """Says what a perfect model would; to a request that no visit makes, `otherwise`. `asked` counts the requests."""

    def __init__(self, visits: Iterable[Visit], otherwise: str = "I do not know.") -> None:
        self.asked = 0
        self.otherwise = otherwise
        self.replies: dict[str, str] = {}
        for visit in visits:
            dialect = get_dialect(visit.episode.meta["dialect"])
            for sample in dialect.render(visit.episode):
                self.replies[_key(sample.messages)] = dialect.visible(sample.completion)

    def __call__(self, messages: Sequence[Message]) -> str:
        self.asked += 1
        return self.replies.get(_key(messages), self.otherwise)

    def complete(
        self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec] = ()
    ) -> Generator[str, None, str]:
        """As `Model.complete`."""
        yield self(messages)
        return "stop"


@contextmanager
def served(answer: Answer, name: str = "oracle") -> Iterator[str]:
    """Serve a model behind an OpenAI API and yield its base URL; an answer of None is an error 500."""
    app = FastAPI()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model"}]}

    @app.post("/v1/chat/completions")
    def complete(body: dict[str, Any]) -> dict[str, Any]:
        text = answer(body["messages"])
        message = {"role": "assistant", "content": text}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": name,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": len(text), "total_tokens": 10 + len(text)},
        }

    with serve(app) as url:
        yield f"{url}/v1"


def _key(messages: Sequence[Message]) -> str:
    return json.dumps([[message["role"], message["content"]] for message in messages], ensure_ascii=False)
