"""Visits: one user query through RolePlay over HTTP, with recorded tool results, scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from toolweave.agents.loop import Answered, CallStarted, LimitReached, Observed
from toolweave.agents.role_play import RolePlay
from toolweave.data.synthesize import Kind, held_out_episodes
from toolweave.evals import scorers
from toolweave.models.interface import Model
from toolweave.tools.simulate import Recorded
from toolweave.types import Episode, Lang, Message, ToolCall, Turn

_MAX_CALLS = 5


class Line(StrEnum):
    """A line of the report."""

    SEEN_TOOLS = "seen_tools"
    UNSEEN_TOOLS = "unseen_tools"
    NO_CALL = "no_call"
    TWO_CALL = "two_call"
    FOLLOW_UP = "follow_up"
    TOOL_ERROR = "tool_error"
    MISSING = "missing_argument"


@dataclass(frozen=True, slots=True)
class Visit:
    """A held-out visit: the last turn of `episode` is what is asked, earlier turns are history."""

    id: str
    line: Line
    episode: Episode

    @property
    def turn(self) -> Turn:
        """The turn under test, with its expected calls and reference answer."""
        return self.episode.turns[-1]

    @property
    def expected(self) -> tuple[ToolCall, ...]:
        """The calls this visit needs."""
        return tuple(step.call for step in self.turn.steps)


@dataclass(frozen=True, slots=True)
class VisitResult:
    """What happened on a visit and how it scored; the visit is right if all four hold."""

    id: str
    line: Line
    lang: Lang
    called: bool
    right: bool
    faithful: bool
    stopped: bool
    query: str
    calls: tuple[str, ...]
    answer: str
    transcript: str
    reference: str

    @property
    def ok(self) -> bool:
        """Whether the visit is right."""
        return self.called and self.right and self.faithful and self.stopped


@dataclass(slots=True)
class Counts:
    """Counts of one line of the report: visits, right visits, and visits passing each class."""

    n: int = 0
    ok: int = 0
    called: int = 0
    right: int = 0
    faithful: int = 0
    stopped: int = 0

    def add(self, result: VisitResult) -> None:
        """Count one result."""
        self.n += 1
        for name in ("ok", "called", "right", "faithful", "stopped"):
            setattr(self, name, getattr(self, name) + getattr(result, name))

    def to_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


@dataclass(slots=True)
class _Trace:
    """What the events of one visit leave behind."""

    calls: list[ToolCall] = field(default_factory=list)
    malformed: int = 0
    observations: list[str] = field(default_factory=list)
    answer: str = ""
    stopped: bool = False


def held_out_visits(limit: int | None = None) -> list[Visit]:
    """Return the fixed held-out visits, or a fixed part of about `limit` with every line and language in it."""
    visits = [Visit(f"{i:03d}", _line(episode), episode) for i, episode in enumerate(held_out_episodes())]
    if limit is None or limit >= len(visits):
        return visits
    strata: dict[tuple[Line, Lang], list[Visit]] = {}
    for visit in visits:
        strata.setdefault((visit.line, visit.episode.lang), []).append(visit)
    chosen: list[Visit] = []
    for stratum in strata.values():
        take = max(1, round(limit * len(stratum) / len(visits)))
        chosen += [stratum[i * len(stratum) // take] for i in range(take)]
    return sorted(chosen, key=lambda visit: visit.id)


def _line(episode: Episode) -> Line:
    kind = Kind(episode.meta["kind"])
    if kind is not Kind.ONE_CALL:
        return Line(kind)
    return Line.UNSEEN_TOOLS if episode.meta["held_out_agent"] else Line.SEEN_TOOLS


def run_visits(
    visits: Sequence[Visit],
    llm: Mapping[str, Any],
    *,
    concurrency: int = 12,
    done: Callable[[VisitResult], None] = lambda result: None,
) -> list[VisitResult]:
    """Run visits side by side against a server and score them; `done` hears of each as it ends.

    Raises ServerError when the server cannot be reached.
    """
    with ThreadPoolExecutor(concurrency) as pool:
        results = []
        for result in pool.map(lambda visit: run_visit(visit, llm), visits):
            done(result)
            results.append(result)
        return results


def run_visit(visit: Visit, llm: Mapping[str, Any] | Model) -> VisitResult:
    """Run one visit through RolePlay; `llm` is its config, or a model to ask directly."""
    episode, turn = visit.episode, visit.turn
    recorded = {(step.call.name, _key(step.call)): step.observation for step in turn.steps}
    tools = [
        Recorded(spec, {arguments: text for (name, arguments), text in recorded.items() if name == spec.name})
        for spec in episode.tools
    ]
    # No visit needs more than three model calls; a model that makes five is lost.
    bot = RolePlay(tools, llm, episode.instruction, dialect=episode.meta["dialect"], max_calls=_MAX_CALLS)
    trace, text = _Trace(), ""
    history = [message for earlier in episode.turns[:-1] for message in _messages(earlier)]
    for event in bot.run_events(turn.query, history=history, lang=episode.lang):
        match event:
            case CallStarted(call=ToolCall() as call):
                trace.calls.append(call)
            case CallStarted():
                trace.malformed += 1
            case Observed(observation=observation):
                trace.observations.append(observation)
            case Answered(text=answer, finish_reason=reason):
                trace.answer, trace.stopped = answer, reason == "stop"
            case LimitReached(text=answer):
                trace.answer = answer
            case _:
                pass
        text += event.visible
    return score(visit, trace.calls, trace.malformed, trace.observations, trace.answer, trace.stopped, text)


def score(
    visit: Visit,
    calls: Sequence[ToolCall],
    malformed: int,
    observations: Iterable[str],
    answer: str,
    stopped: bool,
    transcript: str,
) -> VisitResult:
    """Score what happened on a visit."""
    made = len(calls) + malformed
    repeated = any(scorers.same_call(a, b) for i, a in enumerate(calls) for b in calls[:i])
    return VisitResult(
        id=visit.id,
        line=visit.line,
        lang=visit.episode.lang,
        called=bool(made) == bool(visit.expected),
        right=not malformed and scorers.same_calls(calls, visit.expected),
        faithful=_faithful(visit, answer, observations),
        stopped=stopped and not repeated,
        query=visit.turn.query,
        calls=tuple(f"{call.name} {call.arguments_json()}" for call in calls),
        answer=answer,
        transcript=transcript,
        reference=visit.turn.answer,
    )


def _faithful(visit: Visit, answer: str, observations: Iterable[str]) -> bool:
    episode = visit.episode
    if not scorers.speaks(answer, episode.lang):
        return False
    if visit.line is Line.NO_CALL:
        # Small talk may hold any number; only what it must say (its name) and made-up links count.
        return scorers.states_facts(answer, episode.meta["facts"]) and "http" not in answer
    sources = [visit.turn.query, *(earlier.query for earlier in episode.turns[:-1]), *observations]
    if not scorers.invents_nothing(answer, sources):
        return False
    if visit.line is Line.TOOL_ERROR:
        return scorers.admits_failure(answer)
    if visit.line is Line.MISSING:
        return scorers.asks(answer)
    return scorers.states_facts(answer, episode.meta["facts"])


def count(results: Iterable[VisitResult]) -> dict[Line, Counts]:
    """Count results by line of the report."""
    lines = {line: Counts() for line in Line}
    for result in results:
        lines[result.line].add(result)
    return lines


def _messages(turn: Turn) -> list[Message]:
    return [Message(role="user", content=turn.query), Message(role="assistant", content=turn.answer)]


def _key(call: ToolCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False, sort_keys=True)
