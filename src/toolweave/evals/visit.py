"""Running visits: one user query through RolePlay, with recorded or simulated tools, scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from toolweave.agents.loop import Answered, CallStarted, LimitReached, LimitReason, Observed
from toolweave.agents.role_play import RolePlay
from toolweave.evals.cache import CountingClient, Metered, ReplyCache, Source
from toolweave.evals.cases import Visit
from toolweave.evals.score import Trace, VisitResult, score
from toolweave.models.interface import Model
from toolweave.tools.base import BaseTool
from toolweave.tools.simulate import Recorded, Simulated
from toolweave.types import Episode, Message, ToolCall, Turn

_MAX_CALLS = 5


class ToolMode(StrEnum):
    """Where observations come from."""

    RECORDED = "recorded"
    SIMULATED = "simulated"


class History(StrEnum):
    """Who answers the turns before the one under test."""

    RECORDED = "recorded"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class Plan:
    """How visits are run. Trial t of a visit samples with seed + t; one trial at temperature 0 is greedy."""

    tools: ToolMode = ToolMode.RECORDED
    history: History = History.RECORDED
    trials: int = 1
    concurrency: int = 12
    max_calls: int = _MAX_CALLS
    """No visit needs more than three model calls; a model that makes five is lost."""


def run_visits(
    visits: Sequence[Visit],
    llm: Mapping[str, Any],
    *,
    plan: Plan | None = None,
    model_id: str | None = None,
    cache: ReplyCache | None = None,
    done: Callable[[VisitResult], None] = lambda result: None,
) -> list[VisitResult]:
    """Run visits side by side against a server and score them; `done` hears of each as it ends.

    `model_id` names the weights in `cache`; without it the server's address and model name do. Results come in the
    order of visits, all trials of one visit together. Raises ServerError when the server cannot be reached.
    """
    plan = plan or Plan()
    with _opened(cache) as replies, ThreadPoolExecutor(plan.concurrency) as pool:
        sources = [source_of(llm, trial, model_id) for trial in range(plan.trials)]
        jobs = [(visit, trial) for visit in visits for trial in range(plan.trials)]
        futures = [pool.submit(_run, visit, sources[trial], replies, plan, trial) for visit, trial in jobs]
        results = []
        try:
            for future in futures:
                results.append(future.result())
                done(results[-1])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return results


def run_visit(visit: Visit, llm: Mapping[str, Any] | Model, plan: Plan | None = None) -> VisitResult:
    """Run one visit; `llm` is a config, or a model to ask directly."""
    source = source_of(llm, 0, None) if isinstance(llm, Mapping) else Source(llm, "", {})
    with ReplyCache(None) as cache:
        return _run(visit, source, cache, plan or Plan(), 0, direct=not isinstance(llm, Mapping))


def source_of(llm: Mapping[str, Any], trial: int, model_id: str | None) -> Source:
    """Return the model behind an llm config as trial `trial` asks it."""
    settings = dict(llm.get("generate_cfg") or {})
    if settings.get("temperature"):
        settings["seed"] = int(settings.get("seed", 0)) + trial
    elif trial:
        # Greedy replies are all alike: asking again tests the server, and must not be answered from the cache.
        settings["seed"] = trial
    client = CountingClient({**llm, "generate_cfg": settings})
    return Source(client, model_id or f"{client.base_url} {client.model}", settings)


def _run(
    visit: Visit, source: Source, cache: ReplyCache, plan: Plan, trial: int, *, direct: bool = False
) -> VisitResult:
    meter = Metered(source, cache)
    model = source.model if direct else meter
    turns = visit.episode.turns
    played = turns if plan.history is History.LIVE else turns[-1:]
    history = [message for turn in turns[: len(turns) - len(played)] for message in _messages(turn.query, turn.answer)]
    result: VisitResult | None = None
    for turn in played:
        trace = _play(visit, turn, history, model, plan)
        history = [*history, *_messages(turn.query, trace.answer)]
        asked = visit if turn is turns[-1] else Visit(visit.id, visit.line, _up_to(visit, turn))
        scored = score(asked, trace, trial)
        result = scored if result is None else _both(result, scored)
    assert result is not None  # noqa: S101  # an episode has a turn
    return replace(
        result,
        seconds=sum(reply.seconds for reply in meter.replies),
        model_calls=len(meter.replies),
        prompt_tokens=sum(reply.prompt_tokens for reply in meter.replies),
        completion_tokens=sum(reply.completion_tokens for reply in meter.replies),
        cached=not direct and meter.made == 0,
    )


def _play(visit: Visit, turn: Turn, history: Sequence[Message], model: Model, plan: Plan) -> Trace:
    episode = visit.episode
    dialect = episode.meta.get("dialect", "v06")
    bot = RolePlay(
        _tools(visit, turn, plan.tools), model, episode.instruction, dialect=dialect, max_calls=plan.max_calls
    )
    trace = Trace()
    events = bot.run_events(
        turn.query, history=history, ref_doc=episode.knowledge, lang=episode.lang, append_files=turn.files
    )
    for event in events:
        match event:
            case CallStarted(call=call):
                trace.calls.append(call)
            case Observed(observation=observation):
                trace.observations.append(observation)
            case Answered(text=answer, finish_reason=reason):
                trace.answer, trace.stopped = answer, reason == "stop"
            case LimitReached(text=answer, reason=limit):
                trace.answer, trace.repeated = answer, limit is LimitReason.IDENTICAL_CALL
            case _:
                pass
        trace.transcript += event.visible
    return trace


def _tools(visit: Visit, turn: Turn, mode: ToolMode) -> list[BaseTool]:
    if mode is ToolMode.SIMULATED:
        return [Simulated(spec) for spec in visit.episode.tools]
    recorded = {(step.call.name, _key(step.call)): step.observation for step in turn.steps}
    return [
        Recorded(spec, {arguments: text for (name, arguments), text in recorded.items() if name == spec.name})
        for spec in visit.episode.tools
    ]


def _up_to(visit: Visit, turn: Turn) -> Episode:
    """Return the episode as if `turn` were the last; what it must state is known for the real last turn only."""
    episode = visit.episode
    at = next(index for index, other in enumerate(episode.turns) if other is turn)
    return replace(episode, turns=episode.turns[: at + 1], meta={**episode.meta, "facts": None})


def _both(first: VisitResult, last: VisitResult) -> VisitResult:
    """Return the result of a conversation: right only if every turn is."""
    return replace(
        last,
        **{name: getattr(first, name) and getattr(last, name) for name in ("called", "right", "faithful", "stopped")},
        calls=(*first.calls, *last.calls),
        transcript=f"{first.transcript}\n\n{last.query}\n{last.transcript}",
        failures=tuple(dict.fromkeys((*first.failures, *last.failures))),
    )


@contextmanager
def _opened(cache: ReplyCache | None) -> Iterator[ReplyCache]:
    if cache is not None:
        yield cache
        return
    with ReplyCache(None) as memory:
        yield memory


def _messages(query: str, answer: str) -> list[Message]:
    return [Message(role="user", content=query), Message(role="assistant", content=answer)]


def _key(call: ToolCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False, sort_keys=True)
