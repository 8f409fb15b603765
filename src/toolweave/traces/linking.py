"""Linking the requests of one visit: the next request carries the reply to the previous one.

When a trace is stored, the beginnings by which its successor can be known are stored with it as hashed keys; a new
request computes the keys of its own beginnings and finds its predecessor by index. Blanks do not count: clients strip
them as they like. Two ways lead on: the trace grows inside the last message (AgentFabric), or the reply comes back
as an assistant message (the next turn, and native tool calls).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple

from toolweave.dialects import AgentFabric
from toolweave.traces.recognise import Recognised
from toolweave.traces.trace import ModelReply
from toolweave.types import Json, Message


class Step(StrEnum):
    """How a request goes on from its predecessor."""

    SAME_TURN = "same_turn"
    NEXT_TURN = "next_turn"


class Lookup(NamedTuple):
    """A key to find the predecessor by, and what kind of step it would be."""

    key: bytes
    step: Step


def anchors(seen: Recognised, query: str, reply: ModelReply) -> set[bytes]:
    """Return the keys under which the successor of this exchange will look for it; `query` is that of the turn."""
    messages = seen.messages
    if not messages:
        return set()
    last = messages[-1]["content"]
    if seen.dialect is None:
        spoken = _spoken(reply.text, reply.tool_calls)
        asked = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=-1)
        # An app may keep the calls of the turn as its history, or only what was asked and answered.
        kept = (*messages[:asked], Message(role="user", content=query))
        return {_chat_key(seen, history, spoken) for history in (messages, messages[: asked + 1], kept)}
    said = seen.dialect.visible(reply.text)
    traces = {said, *_through_first_call(seen.dialect, said)}
    # An app keeps the answer alone, or all that the user saw of the turn.
    shown = last[last.find(query) + len(query) :] + said if query in last else said
    history = (*_history(seen), Message(role="user", content=query))
    grown = {_key("grown", *_contents(messages[:-1]), last + trace) for trace in traces}
    return grown | {_chat_key(seen, history, answer) for answer in (said, shown)}


def lookups(seen: Recognised) -> list[Lookup]:
    """Return the keys that may lead to the predecessor of this request, the likeliest first."""
    found = []
    messages = seen.messages
    if seen.dialect is not None and messages:
        before = seen.dialect.observation_text("\0").partition("\0")[0]
        head, last = _contents(messages[:-1]), messages[-1]["content"]
        cut = last.rfind(before)
        while cut >= 0:
            found.append(Lookup(_key("grown", *head, last[:cut]), Step.SAME_TURN))
            cut = last.rfind(before, 0, cut)
    replied = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if replied:
        at = replied[-1]
        start = 1 if seen.dialect is not None else 0
        spoken = _spoken(messages[at]["content"], seen.native_calls[at] if seen.native_calls else ())
        asked = any(message["role"] == "user" for message in messages[at + 1 :])
        step = Step.NEXT_TURN if asked else Step.SAME_TURN
        found.append(Lookup(_chat_key(seen, messages[start:at], spoken), step))
    return found


def _history(seen: Recognised) -> tuple[Message, ...]:
    return seen.messages[1:-1]


def _through_first_call(dialect: AgentFabric, said: str) -> Iterable[str]:
    """Yield the reply up to the end of its first call: a client may drop what was written behind it."""
    calls = dialect.parse(said).calls
    if calls and calls[0].raw:
        yield said[: said.find(calls[0].raw) + len(calls[0].raw)]


def _spoken(text: str, calls: Iterable[Json]) -> str:
    """Return what identifies a reply: its text, or the ids of its calls, which are unique."""
    ids = [str(call.get("id")) for call in calls]
    return "\0".join([text, *ids])


def _chat_key(seen: Recognised, history: Iterable[Message], reply: str) -> bytes:
    return _key("chat", seen.identity, *(f"{m['role']}:{m['content']}" for m in history), reply)


def _contents(messages: Iterable[Message]) -> list[str]:
    return [message["content"] for message in messages]


def _key(*parts: str) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        text = "".join(part.split()).encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.digest()
