"""Reading what a server answered, whole or streamed, into a `ModelReply`. Never raises: what is odd reads as empty."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from toolweave.traces.trace import ModelReply
from toolweave.types import Json


def read_reply(body: bytes, *, streamed: bool) -> ModelReply:
    """Return what the first choice of an answer says; `body` is JSON, or server-sent events if `streamed`."""
    if streamed:
        return _joined(_events(body))
    answer = _object(body)
    choice = _choice(answer)
    message = _dict(choice.get("message"))
    text = message.get("content") if message else choice.get("text")
    calls = [call for call in _list(message.get("tool_calls")) if isinstance(call, dict)]
    return _reply(_text(text), calls, choice.get("finish_reason"), answer.get("usage"))


def _joined(chunks: Iterable[Json]) -> ModelReply:
    texts: list[str] = []
    calls: dict[int, Json] = {}
    finish: Any = None
    usage: Any = None
    for chunk in chunks:
        choice = _choice(chunk)
        delta = _dict(choice.get("delta"))
        texts.append(_text(delta.get("content")) or _text(choice.get("text")))
        for part in _list(delta.get("tool_calls")):
            if isinstance(part, dict):
                _grow(calls.setdefault(_number(part.get("index")), {}), part)
        finish = choice.get("finish_reason") or finish
        usage = chunk.get("usage") or usage
    return _reply("".join(texts), [calls[index] for index in sorted(calls)], finish, usage)


def _grow(call: Json, part: Json) -> None:
    """Add one delta of a tool call: `arguments` comes in pieces, the rest at once."""
    function = call.setdefault("function", {"name": "", "arguments": ""})
    delta = _dict(part.get("function"))
    function["name"] += _text(delta.get("name"))
    function["arguments"] += _text(delta.get("arguments"))
    call |= {key: part[key] for key in ("id", "type") if part.get(key)}


def _events(body: bytes) -> Iterator[Json]:
    for line in body.splitlines():
        if line.startswith(b"data:"):
            chunk = _object(line.removeprefix(b"data:"))
            if chunk:
                yield chunk


def _reply(text: str, calls: Iterable[Json], finish: Any, usage: Any) -> ModelReply:
    counts = _dict(usage)
    return ModelReply(
        text,
        tuple(calls),
        _text(finish),
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
    )


def _choice(answer: Json) -> Json:
    choices = [choice for choice in _list(answer.get("choices")) if isinstance(choice, dict)]
    return next((choice for choice in choices if not choice.get("index")), {})


def _object(body: bytes) -> Json:
    try:
        return _dict(json.loads(body))
    except (ValueError, RecursionError):
        return {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
