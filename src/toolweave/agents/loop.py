"""One visit: ask the model, run the tool it calls, show it the observation, and so on to the answer."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from toolweave.dialects import Dialect, Prompt
from toolweave.errors import ToolweaveError
from toolweave.models.interface import STOPPED, Model, StoppedStream
from toolweave.tools import BaseTool
from toolweave.types import InvalidToolCall, Lang, ToolCall


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of what the model says."""

    text: str

    @property
    def visible(self) -> str:
        """What the user sees of this event; joined over a visit, the transcript."""
        return self.text


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The model made a call, which is about to run. Its text has been seen already."""

    call: ToolCall | InvalidToolCall
    visible: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """A call returned, or failed (`error`). `visible` is the dialect's frame around the observation."""

    call: ToolCall | InvalidToolCall
    observation: str
    error: bool
    visible: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The visit is over: the model answered without a call. `finish_reason` is the server's (`stop`, `length`, …)."""

    text: str
    finish_reason: str = STOPPED
    visible: str = ""


class LimitReason(StrEnum):
    """Why a visit was ended."""

    IDENTICAL_CALL = "identical_call"
    MODEL_CALLS = "model_calls"


@dataclass(frozen=True, slots=True)
class LimitReached:
    """The visit was ended; `text` says so to the user."""

    reason: LimitReason
    text: str

    @property
    def visible(self) -> str:
        """What the user sees of this event."""
        return f"\n{self.text}"


Event = TextDelta | CallStarted | Observed | Answered | LimitReached

_SENTENCES = {
    (LimitReason.IDENTICAL_CALL, Lang.ZH): "同样的工具调用已经执行过，不再重复。它的结果是：{observation}",
    (LimitReason.IDENTICAL_CALL, Lang.EN): (
        "The same tool call has been made before, so it is not repeated. Its result was: {observation}"
    ),
    (LimitReason.MODEL_CALLS, Lang.ZH): (
        "抱歉，已达到{count}次模型调用的上限，任务没有完成。最后的结果是：{observation}"
    ),
    (LimitReason.MODEL_CALLS, Lang.EN): (
        "Sorry, the limit of {count} model calls is reached and the task is not done. "
        "The last result was: {observation}"
    ),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """When a visit is ended.

    `max_calls` is how often the model is asked, `max_identical_calls` how often one call (name and arguments)
    runs; None lets it run as often as the model likes.
    """

    max_calls: int = 10
    max_identical_calls: int | None = 1

    def __post_init__(self) -> None:
        if self.max_calls < 1 or (self.max_identical_calls is not None and self.max_identical_calls < 1):
            raise ToolweaveError("max_calls and max_identical_calls must be at least 1")


@dataclass(frozen=True, slots=True)
class Loop:
    """Runs visits with a model, a dialect and tools by name; `tool_kwargs` go to every tool call."""

    model: Model
    dialect: Dialect
    tools: Mapping[str, BaseTool]
    limits: Limits = Limits()
    tool_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, prompt: Prompt) -> Iterator[Event]:
        """Yield what happens; the last event is `Answered` or `LimitReached`. Raises ServerError from the model."""
        messages = self.dialect.start(prompt)
        observations: dict[tuple[str, str], list[str]] = defaultdict(list)
        observed = ""
        for _ in range(self.limits.max_calls):
            stream = StoppedStream(self.model.complete(messages, self.dialect.stop), self.dialect.stop)
            for delta in stream:
                yield TextDelta(delta)
            reply = self.dialect.parse(stream.text)
            if not reply.calls:
                yield Answered(reply.text, stream.finish_reason)
                return
            # Only the first call of a reply runs: what the model wrote behind it, it wrote without having seen the
            # observation. It goes on from there, and may make the others.
            call = reply.calls[0]
            earlier = observations[call.name, _arguments(call)]
            if self.limits.max_identical_calls is not None and len(earlier) >= self.limits.max_identical_calls:
                yield self._ended(LimitReason.IDENTICAL_CALL, prompt.lang, earlier[-1])
                return
            yield CallStarted(call)
            outcome = self._observe(call)
            yield outcome
            observed = outcome.observation
            earlier.append(observed)
            trace = stream.text if len(reply.calls) == 1 else self._through(call, stream.text)
            messages = self.dialect.advance(messages, trace, observed)
        yield self._ended(LimitReason.MODEL_CALLS, prompt.lang, observed)

    def _observe(self, call: ToolCall | InvalidToolCall) -> Observed:
        tool = self.tools.get(call.name)
        if tool is None:
            valid = ", ".join(self.tools) or "-"
            return self._failed(call, f"'{call.name}' is not a tool. Valid names: {valid}")
        if isinstance(call, InvalidToolCall):
            return self._failed(call, call.reason)
        try:
            observation = str(tool.call(call.arguments_json(), **self.tool_kwargs))
        except Exception as error:  # A tool is foreign code: whatever it raises is news for the model.
            return self._failed(call, str(error) or type(error).__name__)
        return Observed(call, observation, error=False, visible=self.dialect.observation_text(observation))

    def _failed(self, call: ToolCall | InvalidToolCall, details: str) -> Observed:
        observation = self.dialect.error_observation(call, details)
        return Observed(call, observation, error=True, visible=self.dialect.observation_text(observation))

    def _through(self, call: ToolCall | InvalidToolCall, reply: str) -> str:
        """Return the reply up to the end of its first call."""
        end = 0
        while call.raw and (at := reply.find(call.raw, end)) >= 0:
            end = at + len(call.raw)
            if self.dialect.parse(reply[:end]).calls == (call,):
                return reply[:end]
        return reply

    def _ended(self, reason: LimitReason, lang: Lang, observation: str) -> LimitReached:
        sentence = _SENTENCES[reason, lang]
        return LimitReached(reason, sentence.format(count=self.limits.max_calls, observation=observation))


def _arguments(call: ToolCall | InvalidToolCall) -> str:
    if isinstance(call, InvalidToolCall):
        return call.raw
    return json.dumps(call.arguments, sort_keys=True)
