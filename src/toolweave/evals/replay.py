"""Captured requests asked of another model: what it would have said, how that differs, and whether it is worse."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum

from toolweave.dialects import get_dialect
from toolweave.evals.cache import Metered, ReplyCache, Source
from toolweave.evals.scorers import same_calls
from toolweave.traces.cases import Case, cases
from toolweave.traces.curate import flag, flag_visit
from toolweave.traces.rules import RULES
from toolweave.traces.store import EVERYTHING, TraceStore
from toolweave.traces.trace import Exchange, Filter, Flag, ModelReply, Review, Trace, Verdict, Visit
from toolweave.types import InvalidToolCall, Json, Message, ToolCall

REPLAY = "replay"
"""The rule under which failures are flagged for review, and the source of their traces."""


class Outcome(StrEnum):
    """What became of a captured reply."""

    SAME = "same"
    CHANGED = "changed"
    MENDED = "mended"
    """A rule or a reviewer objected to the old reply, and nothing objects to the new one."""
    FAILED = "failed"
    """A rule objects to the new reply, or it calls otherwise than a reply that a reviewer accepted."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A captured trace and the reply of the other model, as a trace that has not been stored; `why` it failed."""

    old: Trace
    new: Trace
    outcome: Outcome
    why: tuple[Flag, ...]

    def to_json(self) -> Json:
        """Return the JSON form."""
        return {
            "trace": self.old.id,
            "visit": self.old.visit,
            "agent": self.old.agent,
            "query": self.old.query,
            "outcome": self.outcome,
            "captured": shown(self.old),
            "replayed": shown(self.new),
            "why": [{"rule": item.rule, "why": item.why} for item in self.why],
        }


def replay(
    store: TraceStore,
    source: Source,
    cache: ReplyCache,
    wanted: Filter = EVERYTHING,
    concurrency: int = 12,
    done: Callable[[], None] = lambda: None,
) -> list[Replayed]:
    """Ask the requests of a filter again, as they were sent, and judge the replies; raw completions are left out.

    A captured reply that a reviewer corrected counts as the correction. Raises ServerError when the server is gone.
    """
    flag(store)
    traces = [trace for trace in store.traces(wanted) if trace.messages and trace.exchange.source != REPLAY]

    def again(trace: Trace) -> Replayed:
        replayed = _compare(trace, _asked(trace, source, cache))
        done()
        return replayed

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(again, traces))


def flag_failures(store: TraceStore, replayed: Sequence[Replayed]) -> list[str]:
    """Store the failed replies as flagged traces, for `toolweave traces review --rule replay`; return their ids."""
    failed = [item for item in replayed if item.outcome is Outcome.FAILED]
    ids = store.record_all(item.new.exchange for item in failed)
    flags = {
        trace: [*item.why, Flag(REPLAY, f"{item.new.model} fails what {item.old.id} was asked")]
        for trace, item in zip(ids, failed, strict=True)
    }
    store.set_flags(flags, [*RULES, REPLAY])
    return ids


def count_outcomes(replayed: Sequence[Replayed]) -> dict[Outcome, int]:
    """Return how many replies came to what."""
    counts = Counter(item.outcome for item in replayed)
    return {outcome: counts[outcome] for outcome in Outcome}


def shown(trace: Trace) -> str:
    """Return the reply of a trace as text, a reviewer's correction in its place."""
    if trace.review.label is not None:
        return trace.review.label
    calls = [call["function"] for call in trace.reply.tool_calls if isinstance(call.get("function"), dict)]
    native = [f"{call.get('name')} {call.get('arguments')}" for call in calls]
    return "\n".join(filter(None, [trace.reply.text, *native]))


def _asked(trace: Trace, source: Source, cache: ReplyCache) -> Trace:
    """Return the trace as it would be with the other model's reply."""
    request = trace.exchange.request
    tools = trace.tools if request.get("tools") else ()
    meter = Metered(source, cache)
    # As they were sent: what else a message holds is the server's to read.
    messages: tuple[Message, ...] = trace.messages
    text = "".join(meter.complete(messages, trace.stop, tools))
    spent = meter.replies[-1]
    calls: tuple[Json, ...] = ()
    if tools:
        parsed = get_dialect("native").parse(text)
        text, calls = (
            parsed.text,
            tuple(
                {"type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}
                for call in parsed.calls
            ),
        )
    reply = ModelReply(text, calls, spent.finish, spent.prompt_tokens, spent.completion_tokens)
    model = str(getattr(source.model, "model", ""))
    exchange = Exchange({**request, "model": model}, reply, time.time(), spent.seconds, source=REPLAY)
    return replace(trace, exchange=exchange, flags=(), feedback=(), review=Review())


def _compare(old: Trace, new: Trace) -> Replayed:
    reference = _case(replace(old, exchange=replace(old.exchange, reply=_reference(old))))
    made = _case(new)
    why = list(flag_visit(Visit(new.visit, (new,)))[new.id])
    same = _same_calls(made, reference)
    if not same and old.review.verdict in (Verdict.ACCEPTED, Verdict.CORRECTED):
        why.append(Flag("calls", f"a reviewer accepted {shown(old)[:80]!r}"))
    if same and made.text.split() == reference.text.split():
        outcome = Outcome.SAME
    elif why:
        outcome = Outcome.FAILED
    else:
        objected = (old.flags and old.review.verdict is Verdict.UNREVIEWED) or old.review.verdict is Verdict.REJECTED
        outcome = Outcome.MENDED if objected else Outcome.CHANGED
    return Replayed(old, new, outcome, tuple(why) if outcome is Outcome.FAILED else ())


def _reference(trace: Trace) -> ModelReply:
    label = trace.review.label
    return trace.reply if label is None else replace(trace.reply, text=label, tool_calls=())


def _case(trace: Trace) -> Case:
    return next(cases(Visit(trace.visit, (trace,))))


def _same_calls(made: Case, reference: Case) -> bool:
    ours = [call for call in made.calls if isinstance(call, ToolCall)]
    theirs = [call for call in reference.calls if isinstance(call, ToolCall)]
    return len(made.calls) == len(reference.calls) == len(ours) and same_calls(ours, theirs)


def _arguments(call: ToolCall | InvalidToolCall) -> str:
    return call.arguments_json() if isinstance(call, ToolCall) else call.raw
