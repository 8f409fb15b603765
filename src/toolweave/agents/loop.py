"""One visit: ask the model, run the tools it calls, show it the observations, and so on to the answer.

What happens is decided in one place, `Loop._visit`, a generator that yields events and asks for what takes time:
a reply, or the outcomes of calls. `run` fetches these in the caller's thread, `arun` without blocking.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

from toolweave.agents.events import (
    Answered,
    CallStarted,
    Cited,
    Event,
    Failed,
    LimitReached,
    LimitReason,
    Limits,
    Observed,
    TextDelta,
    limit_reached,
)
from toolweave.agents.memory import Window
from toolweave.agents.threads import Cancelled, as_async, from_thread, in_thread, iterate
from toolweave.agents.toolbox import Outcome, OutcomeKind, Toolbox
from toolweave.dialects import CallsPerReply, Dialect, Prompt, ToolsIn
from toolweave.errors import ToolweaveError
from toolweave.models.interface import STOPPED, AsyncModel, Finished, Model, StopFilter, StoppedStream
from toolweave.types import InvalidToolCall, Message, ToolCall, ToolSpec

__all__ = [
    "Answered",
    "CallStarted",
    "Cited",
    "Event",
    "Failed",
    "LimitReached",
    "LimitReason",
    "Limits",
    "Loop",
    "Observed",
    "TextDelta",
]

Call = ToolCall | InvalidToolCall


@dataclass(frozen=True, slots=True)
class _Ask:
    """Ask the model; `tokens` is how many it may write. The answer is a `_Reply`, or None when the time is up."""

    messages: list[Message]
    tools: tuple[ToolSpec, ...]
    tokens: float


@dataclass(frozen=True, slots=True)
class _Reply:
    """What the model wrote."""

    text: str
    finish_reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class _Act:
    """Run calls. The answer are their outcomes in order, or None when the time is up."""

    calls: Sequence[Call]


_Visit = Generator[Event | _Ask | _Act, Any, None]


@dataclass(frozen=True, slots=True)
class Loop:
    """Runs visits with a model, a dialect and the tools of an agent; `tool_kwargs` go to every tool call."""

    model: Model
    dialect: Dialect
    tools: Toolbox
    limits: Limits = field(default_factory=Limits)
    window: Window = field(default_factory=Window)
    tool_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, prompt: Prompt, cancel: threading.Event | None = None) -> Iterator[Event]:
        """Yield what happens; the last event is `Answered` or `LimitReached`.

        Setting `cancel` stops model and tools at once, and so does closing the iterator between two events. Raises
        the model's ServerError, after a `Failed` event.
        """
        if cancel is None and self.limits.max_seconds is None:
            yield from self._run(prompt)
            return
        # To be interrupted, what takes time must not take it in this thread.
        try:
            yield from iterate(self.arun(prompt), cancel)
        except Cancelled:
            yield limit_reached(LimitReason.CANCELLED, self.limits, prompt.lang)

    async def arun(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """As `run`; cancelling the task stops model and tools at once."""
        seconds = self.limits.max_seconds
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        visit, left = self._visit(prompt), threading.Event()
        answer: _Reply | list[Outcome] | None = None
        try:
            while True:
                try:
                    step = visit.send(answer)
                except StopIteration:
                    return
                answer = None
                if isinstance(step, _Act):
                    answer = await self._aact(step, left, deadline)
                elif isinstance(step, _Ask):
                    async with aclosing(self._aask(step, deadline)) as said:
                        async for event in said:
                            if isinstance(event, _Reply):
                                answer = event
                            else:
                                yield event
                else:
                    yield step
        finally:
            left.set()

    def _visit(self, prompt: Prompt) -> _Visit:
        limits, messages = self.limits, self.dialect.start(prompt)
        earlier: dict[tuple[str, str], list[str]] = defaultdict(list)
        observed, tokens, invalid, made = "", 0, 0, 0
        tools = prompt.tools if self.dialect.tools_in is ToolsIn.REQUEST else ()

        def ended(reason: LimitReason) -> LimitReached:
            return limit_reached(reason, limits, prompt.lang, observed)

        for _ in range(limits.max_calls):
            budget = float("inf") if limits.max_tokens is None else limits.max_tokens - tokens
            said: _Reply | None = yield _Ask(self.window.fit(messages, len(prompt.history)), tools, budget)
            if said is None:
                yield ended(LimitReason.TIME)
                return
            tokens += said.tokens
            if limits.max_tokens is not None and tokens > limits.max_tokens:
                yield ended(LimitReason.TOKENS)
                return
            reply = self.dialect.parse(said.text)
            if not reply.calls:
                yield Answered(reply.text, said.finish_reason)
                return
            calls, trace = reply.calls, said.text
            if self.dialect.calls_per_reply is CallsPerReply.ONE and len(calls) > 1:
                # What the model wrote behind its first call, it wrote without having seen the observation. It goes
                # on from there, and may make the others.
                calls, trace = calls[:1], self._through(calls[0], said.text)
            fresh = {_key(call): call for call in calls if not _too_often(earlier[_key(call)], limits)}
            if not fresh:
                observed = earlier[_key(calls[-1])][-1]
                yield ended(LimitReason.IDENTICAL_CALL)
                return
            made += len(fresh)
            if limits.max_tool_calls is not None and made > limits.max_tool_calls:
                yield ended(LimitReason.TOOL_CALLS)
                return
            for call in fresh.values():
                yield CallStarted(call)
            outcomes: list[Outcome] | None = yield _Act(list(fresh.values()))
            if outcomes is None:
                yield ended(LimitReason.TIME)
                return
            for (key, call), outcome in zip(fresh.items(), outcomes, strict=True):
                earlier[key].append(self._observation(call, outcome))
            # A call that was made before, or twice in this reply, has the same observation again.
            observations = [earlier[_key(call)][-1] for call in calls]
            yield from self._observed(fresh, outcomes, earlier, self.dialect.observation_text(*observations))
            observed = observations[-1]
            invalid = invalid + 1 if all(outcome.kind is OutcomeKind.INVALID for outcome in outcomes) else 0
            if limits.max_invalid_calls is not None and invalid > limits.max_invalid_calls:
                yield ended(LimitReason.INVALID_CALLS)
                return
            messages = self.dialect.advance(messages, trace, *observations)
        yield ended(LimitReason.MODEL_CALLS)

    def _observation(self, call: Call, outcome: Outcome) -> str:
        done = outcome.kind is OutcomeKind.DONE
        return outcome.text if done else self.dialect.error_observation(call, outcome.text)

    def _observed(
        self,
        calls: Mapping[tuple[str, str], Call],
        outcomes: Sequence[Outcome],
        observations: Mapping[tuple[str, str], list[str]],
        frame: str,
    ) -> Iterator[Observed]:
        last = len(calls) - 1
        for number, ((key, call), outcome) in enumerate(zip(calls.items(), outcomes, strict=True)):
            error = outcome.kind is not OutcomeKind.DONE
            yield Observed(call, observations[key][-1], error, visible=frame if number == last else "")

    def _through(self, call: Call, reply: str) -> str:
        """Return the reply up to the end of its first call."""
        end = 0
        while call.raw and (at := reply.find(call.raw, end)) >= 0:
            end = at + len(call.raw)
            if self.dialect.parse(reply[:end]).calls == (call,):
                return reply[:end]
        return reply

    # --- in the caller's thread ---

    def _run(self, prompt: Prompt) -> Iterator[Event]:
        visit = self._visit(prompt)
        answer: _Reply | list[Outcome] | None = None
        while True:
            try:
                step = visit.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(step, _Act):
                answer = self._act(step)
            elif isinstance(step, _Ask):
                answer = yield from self._ask(step)
            else:
                yield step

    def _ask(self, ask: _Ask) -> Generator[Event, None, _Reply]:
        try:
            stream = StoppedStream(self._deltas(ask), self.dialect.stop)
            tokens = 0
            for delta in stream:
                yield TextDelta(delta)
                tokens += self.window.count(delta)
                if tokens > ask.tokens:
                    break
        except ToolweaveError as error:
            yield Failed(str(error))
            raise
        return _Reply(stream.text, stream.finish_reason, tokens)

    def _deltas(self, ask: _Ask) -> Iterator[str]:
        # A model of one's own need not know of tools where the dialect keeps them in the prompt.
        if ask.tools:
            return self.model.complete(ask.messages, self.dialect.stop, ask.tools)
        return self.model.complete(ask.messages, self.dialect.stop)

    def _act(self, act: _Act) -> list[Outcome]:
        kwargs = {"cancel": threading.Event(), **self.tool_kwargs}
        outcomes: list[Outcome] = []
        for batch in self._batches(act.calls):
            if len(batch) == 1:
                outcomes.append(self.tools.run(batch[0], kwargs))
            else:
                running = [in_thread(partial(self.tools.run, call, kwargs)) for call in batch]
                outcomes += [outcome.result() for outcome in running]
        return outcomes

    def _batches(self, calls: Sequence[Call]) -> Iterator[list[Call]]:
        """Yield the calls in order; neighbours that change nothing run side by side."""
        for beside, group in groupby(calls, self.tools.may_run_beside):
            batch = list(group)
            yield from [batch] if beside else [[call] for call in batch]

    # --- on the event loop ---

    async def _aask(self, ask: _Ask, deadline: float | None) -> AsyncGenerator[Event | _Reply, None]:
        """Yield what the model says and, unless the time is up, the whole as a `_Reply`."""
        cut, tokens, reason = StopFilter(self.dialect.stop), 0, STOPPED
        if isinstance(self.model, AsyncModel):
            deltas = as_async(self.model.acomplete(ask.messages, self.dialect.stop, ask.tools))
        else:
            deltas = from_thread(lambda: self._deltas(ask))
        try:
            async with aclosing(deltas):
                while not cut.stopped and tokens <= ask.tokens:
                    async with asyncio.timeout_at(deadline) as time_limit:
                        delta = await anext(deltas, Finished())
                    text = cut.end() if isinstance(delta, Finished) else cut.feed(delta)
                    if text:
                        yield TextDelta(text)
                        tokens += self.window.count(text)
                    if isinstance(delta, Finished):
                        reason = delta.reason
                        break
        except ToolweaveError as error:
            yield Failed(str(error))
            raise
        except TimeoutError:
            if time_limit.expired():
                return
            raise
        yield _Reply(cut.text, reason, tokens)

    async def _aact(self, act: _Act, left: threading.Event, deadline: float | None) -> list[Outcome] | None:
        """Return the outcomes, or None when the time is up; tools that run on are told by `left`."""
        kwargs = {**self.tool_kwargs, "cancel": left}
        outcomes: list[Outcome] = []
        try:
            async with asyncio.timeout_at(deadline):
                for batch in self._batches(act.calls):
                    running = (in_thread(partial(self.tools.run, call, kwargs)) for call in batch)
                    outcomes += await asyncio.gather(*map(asyncio.wrap_future, running))
        except TimeoutError:
            return None  # a tool's own TimeoutError is an outcome
        return outcomes


def _too_often(observations: Sequence[str], limits: Limits) -> bool:
    return limits.max_identical_calls is not None and len(observations) >= limits.max_identical_calls


def _key(call: Call) -> tuple[str, str]:
    if isinstance(call, InvalidToolCall):
        return call.name, call.raw
    return call.name, json.dumps(call.arguments, sort_keys=True)
