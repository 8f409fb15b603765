"""Two models on the same agent: answering the same question side by side, and on the held-out visits."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolweave.agents.events import Event, Failed
from toolweave.agents.role_play import RolePlay
from toolweave.errors import ToolweaveError
from toolweave.evals.cache import ReplyCache
from toolweave.evals.cases import Visit
from toolweave.evals.gate import Evidence, GateResult, decide, read_rules
from toolweave.evals.outputs import write_gate
from toolweave.evals.results import save_results
from toolweave.evals.score import VisitResult
from toolweave.evals.visit import Plan, run_visits
from toolweave.types import Lang, Message

_CONCURRENCY = 4
_MAX_TOKENS = 256


@dataclass(slots=True)
class Side:
    """What one model has done so far with the question."""

    events: list[Event] = field(default_factory=list)
    seconds: float = 0.0
    done: bool = False

    @property
    def transcript(self) -> str:
        """What the user has seen."""
        return "".join(event.visible for event in self.events)


def side_by_side(
    bots: Sequence[RolePlay],
    query: str,
    histories: Sequence[Sequence[Message]],
    lang: Lang,
    cancel: threading.Event,
) -> Iterator[tuple[Side, ...]]:
    """Ask agents the same at the same time, and yield how far each is whenever one of them goes on.

    An agent that fails ends with `Failed`, and the others go on. Closing the iterator, or setting `cancel`, stops all.
    """
    sides = tuple(Side() for _ in bots)
    news: queue.SimpleQueue[tuple[Side, Event | None, float]] = queue.SimpleQueue()

    def play(bot: RolePlay, side: Side, history: Sequence[Message]) -> None:
        started, failed = time.monotonic(), False
        try:
            for event in bot.run_events(query, history=history, lang=lang, cancel=cancel):
                failed |= isinstance(event, Failed)
                news.put((side, event, time.monotonic() - started))
        except ToolweaveError as error:
            if not failed:
                news.put((side, Failed(str(error)), time.monotonic() - started))
        finally:
            news.put((side, None, time.monotonic() - started))

    threads = [
        threading.Thread(target=play, args=each, daemon=True) for each in zip(bots, sides, histories, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        while not all(side.done for side in sides):
            side, event, side.seconds = news.get()
            side.done = event is None
            if event is not None:
                side.events.append(event)
            yield sides
    finally:
        cancel.set()


@dataclass(frozen=True, slots=True)
class Contest:
    """What is compared: the llm configs of two models, on visits; `folder` takes the results and the report."""

    base: Mapping[str, Any]
    tuned: Mapping[str, Any]
    visits: Sequence[Visit]
    folder: Path
    lang: Lang = Lang.ZH


class HeldOut:
    """A comparison on held-out visits, run in a thread so that it goes on when nobody watches.

    `base` and `tuned` grow as visits end; then there is a `result`, or an `error`. Replies are kept on disk: what was
    asked once is not asked again.
    """

    def __init__(self, contest: Contest) -> None:
        self.contest = contest
        self.base: list[VisitResult] = []
        self.tuned: list[VisitResult] = []
        self.result: GateResult | None = None
        self.error = ""
        self._thread = threading.Thread(target=self._run, name="held-out", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it is still at it."""
        return self._thread.is_alive()

    @property
    def done(self) -> int:
        """How many visits of both models have ended."""
        return len(self.base) + len(self.tuned)

    @property
    def total(self) -> int:
        """How many there are, of both models together."""
        return 2 * len(self.contest.visits)

    def pairs(self) -> list[tuple[VisitResult, VisitResult]]:
        """Return the visits that both models have ended."""
        tuned = {result.id: result for result in list(self.tuned)}
        return [(result, tuned[result.id]) for result in list(self.base) if result.id in tuned]

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the end, at most so long."""
        self._thread.join(seconds)

    def _run(self) -> None:
        contest = self.contest
        try:
            with ReplyCache(contest.folder / "replies.db") as cache:
                for llm, results in ((contest.base, self.base), (contest.tuned, self.tuned)):
                    settings = {**(llm.get("generate_cfg") or {}), "temperature": 0, "max_tokens": _MAX_TOKENS}
                    plan = Plan(concurrency=_CONCURRENCY)
                    greedy = {**llm, "generate_cfg": settings}
                    run_visits(contest.visits, greedy, plan=plan, cache=cache, done=results.append)
            evidence = Evidence(self.base, self.tuned)
            save_results(contest.folder / "base.jsonl", self.base)
            save_results(contest.folder / "tuned.jsonl", self.tuned)
            result = decide(evidence, read_rules())
            write_gate(result, evidence.pairs(), contest.folder, contest.lang)
            self.result = result
        except (ToolweaveError, OSError) as error:
            self.error = str(error)
