"""The vocabulary of traces: exchanges as they happen, traces and visits as the store keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from toolweave.dialects.native import reply_text
from toolweave.types import Json, Message, ToolSpec


class Outcome(StrEnum):
    """How an exchange ended."""

    ANSWERED = "answered"
    REFUSED = "refused"  # the server answered with an HTTP error
    BROKEN_OFF = "broken_off"  # the server went away in the middle
    CLIENT_LEFT = "client_left"  # the app went away in the middle


class Verdict(StrEnum):
    """What a reviewer says of a trace."""

    UNREVIEWED = "unreviewed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    CORRECTED = "corrected"


class FeedbackKind(StrEnum):
    """What the user of the app says of a reply."""

    THUMBS_UP = "thumbs_up"
    THUMBS_DOWN = "thumbs_down"
    CORRECTION = "correction"


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What the model said: text, native tool calls (OpenAI's form), why it ended, tokens if the server counted."""

    text: str = ""
    tool_calls: tuple[Json, ...] = ()
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def written(self) -> str:
        """The reply as one text, as a model writes it: its calls behind its text, without ids, which servers give."""
        calls = ({key: part for key, part in call.items() if key != "id"} for call in self.tool_calls)
        return reply_text(self.text, calls)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its reply, before it is stored.

    `request` is the body as it was sent. `started` is in seconds since 1970; `latency` and `first_token` (None if the
    reply came whole) are seconds after it. `secrets` are the caller's keys: they are struck from whatever is stored.
    """

    request: Json
    reply: ModelReply
    started: float
    latency: float
    first_token: float | None = None
    status: int = 200
    outcome: Outcome = Outcome.ANSWERED
    source: str = "proxy"
    secrets: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Flag:
    """A rule that a trace fell under, and why."""

    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """A user's word on a reply; `text` is empty for a thumb."""

    kind: FeedbackKind
    text: str
    time: float


@dataclass(frozen=True, slots=True)
class Review:
    """A reviewer's verdict; `label` is the corrected output, None unless the verdict is `corrected`."""

    verdict: Verdict = Verdict.UNREVIEWED
    label: str | None = None
    reviewer: str = ""
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """An exchange in the store: linked to its visit, read by the dialect, flagged and reviewed.

    `previous` is the trace whose reply this request carries; `turn` counts the user's queries of the visit from 0.
    `dialect` is empty where no dialect reads the prompt. `query` is what the user asked in this turn.
    """

    id: str
    visit: str
    previous: str | None
    turn: int
    exchange: Exchange
    agent: str
    dialect: str
    tools: tuple[ToolSpec, ...]
    query: str
    flags: tuple[Flag, ...] = ()
    feedback: tuple[Feedback, ...] = ()
    review: Review = Review()

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages of the request, as sent; empty for a raw completion."""
        messages = self.exchange.request.get("messages")
        return tuple(messages) if isinstance(messages, list) else ()

    @property
    def prompt(self) -> str:
        """The prompt of a raw completion; empty for a chat, and for what is no single text."""
        prompt = self.exchange.request.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        return prompt if isinstance(prompt, str) and not self.messages else ""

    @property
    def reply(self) -> ModelReply:
        """What the model said."""
        return self.exchange.reply

    @property
    def model(self) -> str:
        """The model that was asked."""
        return str(self.exchange.request.get("model") or "")

    @property
    def stop(self) -> tuple[str, ...]:
        """The stop words of the request."""
        stop = self.exchange.request.get("stop")
        return (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else ()


@dataclass(frozen=True, slots=True)
class Visit:
    """The linked traces of one conversation, in order."""

    id: str
    traces: tuple[Trace, ...]

    @property
    def agent(self) -> str:
        """The agent's name, or the first words of its instruction."""
        return self.traces[0].agent

    @property
    def started(self) -> float:
        """When the first request came, in seconds since 1970."""
        return self.traces[0].exchange.started

    @property
    def query(self) -> str:
        """What the user asked first."""
        return self.traces[0].query

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The flags of all its traces."""
        return tuple(flag for trace in self.traces for flag in trace.flags)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which traces are meant; everything given must hold. Times are in seconds since 1970.

    `ids` are ids of traces or visits or beginnings of them; `tool` was offered; `rule` flagged (`*`: any rule did);
    `text` stands in the request or reply.
    """

    ids: tuple[str, ...] = ()
    agent: str | None = None
    model: str | None = None
    tool: str | None = None
    rule: str | None = None
    verdict: Verdict | None = None
    outcome: Outcome | None = None
    since: float | None = None
    until: float | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many traces there are, in all and by what."""

    traces: int
    visits: int
    by_verdict: Mapping[str, int]
    by_rule: Mapping[str, int]
    by_agent: Mapping[str, int]
    by_tool: Mapping[str, int]
    by_model: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the counts by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
