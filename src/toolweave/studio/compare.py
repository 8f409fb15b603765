"""Two models on the held-out visits, judged by the gate.

What was begun goes on when nobody watches, and after the Studio was closed when it is looked at again.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from toolweave.agents.spec import AgentSpec
from toolweave.data.json_files import read_json, write_json
from toolweave.errors import DataError, ToolweaveError
from toolweave.evals.cache import ReplyCache
from toolweave.evals.cases import Visit, held_out_visits, stratified
from toolweave.evals.gate import Evidence, GateResult, decide, read_rules
from toolweave.evals.outputs import write_gate
from toolweave.evals.results import load_results, save_results
from toolweave.evals.score import VisitResult
from toolweave.evals.targets import AgentSpec as Player
from toolweave.evals.visit import Plan, run_visits
from toolweave.studio import adopt
from toolweave.studio.workspace import Home
from toolweave.types import Lang, Role

RUN = "run:"
"""What begins the choice of a training run in place of a model; its name follows."""
_CONCURRENCY = 4
_WANTED, _BASE, _TUNED, _FAILED = "contest.json", "base.jsonl", "tuned.jsonl", "failed.json"
_MAX_TOKENS = 256
LLM = Callable[[], Mapping[str, Any]]
"""Gets a model ready, which may take a while, and returns its llm config."""


@dataclass(frozen=True, slots=True)
class Contest:
    """What is compared: two models on visits; `folder` takes results and report, `names` are what they go by."""

    base: LLM
    tuned: LLM
    visits: Sequence[Visit]
    folder: Path
    lang: Lang = Lang.ZH
    names: tuple[str, str] = ("", "")


class HeldOut:
    """A comparison in a thread of its own, once `begin` is called.

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

    def begin(self) -> HeldOut:
        """Begin, and return it."""
        self._thread.start()
        return self

    def read(self) -> bool:
        """Take over what an earlier Studio left of this comparison, and tell whether it had ended."""
        folder = self.contest.folder
        try:
            self.error = str(read_json(folder / _FAILED)["error"]) if (folder / _FAILED).is_file() else ""
            if (folder / _TUNED).is_file():
                self.base, self.tuned = load_results(folder / _BASE), load_results(folder / _TUNED)
                self.result = decide(Evidence(self.base, self.tuned), read_rules())
        except (ToolweaveError, OSError) as error:
            self.error = str(error)
        return self.result is not None or bool(self.error)

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
            result = decide(evidence, read_rules())
            write_gate(result, evidence.pairs(), contest.folder, contest.lang)
            save_results(contest.folder / _BASE, self.base)
            save_results(contest.folder / _TUNED, self.tuned)
            self.result = result
        except (ToolweaveError, OSError) as error:
            self.error = str(error)
            with suppress(OSError):
                write_json(contest.folder / _FAILED, {"error": self.error})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user wants compared: two choices of the lists, how many visits, and of whom they are asked.

    A choice is the key of a model, or a run behind `RUN`; an empty `agent` leaves the visits' own instructions.
    """

    left: str
    right: str
    count: int
    agent: str = ""
    lang: Lang = Lang.ZH

    def contest(self, home: Home, folder: Path) -> Contest:
        """Return the comparison. Raises ToolweaveError where there is no such agent or no visit."""
        visits = visits_for(self.count, home.agent(self.agent, self.lang) if self.agent else None)
        return Contest(
            _llm(home, self.left), _llm(home, self.right), visits, folder, self.lang, (self.left, self.right)
        )


def visits_for(count: int, agent: AgentSpec | None = None) -> list[Visit]:
    """Return at most `count` held-out visits, spread over lines and languages; with an agent, asked of it.

    Raises DataError when there are none.
    """
    visits = held_out_visits()
    if agent is not None:
        role: Role = {"name": agent.name, "description": agent.description, "instruction": agent.instruction}
        visits = Player(role, agent.lang).play(visits)
    chosen = stratified(visits, count)
    if not visits or count < 1:
        raise DataError("there is no held-out visit to run", "ask for at least one")
    # A small part still has a visit of every kind, which may be more than were asked for.
    return [chosen[at * len(chosen) // count] for at in range(count)] if len(chosen) > count else chosen


def ready(home: Home, choice: str) -> str:
    """Return the key of a chosen model; of a run, the best checkpoint is merged and listed first.

    Raises ToolweaveError.
    """
    return adopt.listed(home, choice.removeprefix(RUN)) if choice.startswith(RUN) else choice


def _llm(home: Home, choice: str) -> LLM:
    return lambda: home.llm(ready(home, choice))


_latest: WeakKeyDictionary[Home, HeldOut] = WeakKeyDictionary()
_reading = threading.Lock()


def begin(home: Home, wanted: Wanted) -> HeldOut:
    """Begin a comparison for a user. Raises ToolweaveError, also while another one is at it."""
    last = latest(home)
    if last is not None and last.running:
        raise DataError("another evaluation is still running", "wait for its end")
    folder = _folder(home) / f"{time.time_ns():020d}-{secrets.token_hex(2)}"
    contest = wanted.contest(home, folder)
    folder.mkdir(parents=True)
    write_json(folder / _WANTED, asdict(wanted))
    _latest[home] = HeldOut(contest).begin()
    return _latest[home]


def latest(home: Home) -> HeldOut | None:
    """Return the user's last comparison; one that the end of a Studio broke off goes on."""
    with _reading:
        if home not in _latest:
            folders = sorted(path.parent for path in _folder(home).glob(f"*/{_WANTED}"))
            if not folders:
                return None
            try:
                row = read_json(folders[-1] / _WANTED)
                contest = Wanted(**{**row, "lang": Lang(row["lang"])}).contest(home, folders[-1])
            except (ToolweaveError, TypeError, ValueError, KeyError):
                return None  # its agent has gone since
            found = HeldOut(contest)
            _latest[home] = found if found.read() else found.begin()
        return _latest[home]


def _folder(home: Home) -> Path:
    return home.folder / "comparisons"
