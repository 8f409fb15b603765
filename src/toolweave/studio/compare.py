"""Two models on the held-out visits, judged by the gate; what was begun goes on when nobody watches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from toolweave.agents.spec import AgentSpec
from toolweave.errors import DataError, ToolweaveError
from toolweave.evals.cache import ReplyCache
from toolweave.evals.cases import Visit, held_out_visits
from toolweave.evals.gate import Evidence, GateResult, decide, read_rules
from toolweave.evals.outputs import write_gate
from toolweave.evals.results import save_results
from toolweave.evals.score import VisitResult
from toolweave.evals.targets import AgentSpec as Player
from toolweave.evals.visit import Plan, run_visits
from toolweave.studio.workspace import Home
from toolweave.types import Lang, Role

_CONCURRENCY = 4
_MAX_TOKENS = 256
LLM = Callable[[], Mapping[str, Any]]
"""Gets a model ready, which may take a while, and returns its llm config."""


@dataclass(frozen=True, slots=True)
class Contest:
    """What is compared: two models on visits; `folder` takes the results and the report."""

    base: LLM
    tuned: LLM
    visits: Sequence[Visit]
    folder: Path
    lang: Lang = Lang.ZH


class HeldOut:
    """A comparison in a thread of its own.

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
                for prepare, results in ((contest.base, self.base), (contest.tuned, self.tuned)):
                    llm = prepare()
                    settings = {**(llm.get("generate_cfg") or {}), "temperature": 0, "max_tokens": _MAX_TOKENS}
                    greedy = {**llm, "generate_cfg": settings}
                    # The port of a server changes, the model does not.
                    name = f"{llm.get('model_server')} {llm['model']}"
                    plan = Plan(concurrency=_CONCURRENCY)
                    run_visits(contest.visits, greedy, plan=plan, model_id=name, cache=cache, done=results.append)
            evidence = Evidence(self.base, self.tuned)
            save_results(contest.folder / "base.jsonl", self.base)
            save_results(contest.folder / "tuned.jsonl", self.tuned)
            result = decide(evidence, read_rules())
            write_gate(result, evidence.pairs(), contest.folder, contest.lang)
            self.result = result
        except (ToolweaveError, OSError) as error:
            self.error = str(error)


def visits_for(count: int, agent: AgentSpec | None = None) -> list[Visit]:
    """Return about `count` held-out visits; with an agent, those of its language, asked of it.

    Raises DataError when there are none.
    """
    # A small part still has a visit of every kind, which may be more than were asked for.
    visits = held_out_visits(None if agent else count)[: None if agent else count]
    if agent is not None:
        role: Role = {"name": agent.name, "description": agent.description, "instruction": agent.instruction}
        played = Player(role, agent.lang).play(visits)
        visits = played[:: max(1, len(played) // max(1, count))][:count]
    if not visits:
        raise DataError("there is no held-out visit to run", "ask for at least one")
    return visits


_latest: WeakKeyDictionary[Home, HeldOut] = WeakKeyDictionary()


def begin(home: Home, contest: Contest) -> HeldOut:
    """Begin a comparison for a user. Raises DataError while another one is at it."""
    last = _latest.get(home)
    if last is not None and last.running:
        raise DataError("another evaluation is still running", "wait for its end")
    _latest[home] = HeldOut(contest)
    return _latest[home]


def latest(home: Home) -> HeldOut | None:
    """Return the user's last comparison since the Studio was started."""
    return _latest.get(home)
