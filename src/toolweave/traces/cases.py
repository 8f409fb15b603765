"""A trace as the rules look at it: what the reply does, what had happened before it, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from toolweave.dialects.reading import split_trace
from toolweave.traces.recognise import Recognised, native_call, recognise
from toolweave.traces.trace import Trace, Visit
from toolweave.types import InvalidToolCall, ToolCall

Call = ToolCall | InvalidToolCall


@dataclass(frozen=True, slots=True)
class Case:
    """One reply in its visit.

    `calls` are what the reply makes, `text` what it says (all of it an answer if there are no calls). `earlier` and
    `observations` are the calls made before in this turn and what they returned, `context` all else that the model
    was shown. `outcome` is what the reply's own call returned, `next_query` what the user said next; None if unknown.
    """

    trace: Trace
    calls: tuple[Call, ...]
    text: str
    earlier: tuple[Call, ...]
    observations: tuple[str, ...]
    context: tuple[str, ...]
    outcome: str | None = None
    next_query: str | None = None


def cases(visit: Visit) -> Iterator[Case]:
    """Yield the cases of a visit, in order."""
    followers = {trace.previous: trace for trace in visit.traces if trace.previous is not None}
    for trace in visit.traces:
        follower = followers.get(trace.id)
        outcome = next_query = None
        if follower is not None and follower.turn == trace.turn:
            outcome = next(reversed(_trail(recognise(follower.exchange.request))[1]), None)
        elif follower is not None:
            next_query = follower.query
        yield _case(trace, outcome, next_query)


def reply_calls(trace: Trace, seen: Recognised | None = None) -> tuple[Call, ...]:
    """Return the calls that a trace's reply makes, in the prompt's dialect or natively."""
    return _read_reply(trace, seen or recognise(trace.exchange.request))[0]


def _case(trace: Trace, outcome: str | None, next_query: str | None) -> Case:
    seen = recognise(trace.exchange.request)
    calls, text = _read_reply(trace, seen)
    earlier, observations = _trail(seen)
    shown = tuple(message["content"] for message in seen.messages[:-1])
    return Case(trace, calls, text, earlier, observations, (*shown, trace.query), outcome, next_query)


def _read_reply(trace: Trace, seen: Recognised) -> tuple[tuple[Call, ...], str]:
    native = tuple(native_call(call) for call in trace.reply.tool_calls)
    if native or seen.dialect is None:
        return native, trace.reply.text
    reply = seen.dialect.parse(trace.reply.text)
    return reply.calls, reply.text


def _trail(seen: Recognised) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    """Return the calls made and the observations shown in the turn so far."""
    if not seen.messages:
        return (), ()
    if seen.dialect is None:
        return _native_trail(seen)
    before, _, after = seen.dialect.observation_text("\0").partition("\0")
    exchanges = seen.trace or split_trace(seen.messages[-1]["content"], before, after)[1]
    calls = [call for exchange in exchanges for call in seen.dialect.parse(exchange.reply).calls]
    return tuple(calls), tuple(exchange.observation for exchange in exchanges)


def _native_trail(seen: Recognised) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    asked = max((at for at, message in enumerate(seen.messages) if message["role"] == "user"), default=-1)
    since = range(asked + 1, len(seen.messages))
    calls = [native_call(call) for at in since for call in seen.native_calls[at]]
    observations = [seen.messages[at]["content"] for at in since if seen.messages[at]["role"] == "tool"]
    return tuple(calls), tuple(observations)
