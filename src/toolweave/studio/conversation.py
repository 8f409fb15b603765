"""A conversation with an agent: it runs by itself, whether or not a browser looks on, and survives a restart."""

from __future__ import annotations

import asyncio
import copy
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING

from toolweave.agents.events import Answered, CallStarted, LimitReached, LimitReason, Observed, TextDelta
from toolweave.data.json_files import read_json, write_json
from toolweave.errors import ToolweaveError
from toolweave.serving.calls import CallStream, call_arguments
from toolweave.studio.consent import Answer, Consent, Question
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import FeedbackKind, Filter
from toolweave.types import Json, Message, ToolCall

if TYPE_CHECKING:
    from toolweave.studio.cast import Cast

_GLANCE = 0.02  # seconds between two looks at what changed
log = logging.getLogger("toolweave.studio")


class State(StrEnum):
    """How far a turn has come."""

    STARTING = "starting"
    """The model's server is being started."""
    RUNNING = "running"
    ANSWERED = "answered"
    STOPPED = "stopped"
    """By the user."""
    ENDED = "ended"
    """By a limit, or an error: the note says which."""


@dataclass(slots=True)
class Say:
    """What the model says to the user."""

    text: str = ""


@dataclass(slots=True)
class Step:
    """A tool call. `seconds` and `observation` come when it has returned."""

    tool: str
    arguments: str
    simulated: bool
    observation: str | None = None
    error: bool = False
    seconds: float = 0.0


@dataclass(slots=True)
class Turn:
    """What the user asked and all that came of it. `trace` is that of the last reply, once it is recorded.

    `first_token` is in seconds after the question reached the model.
    """

    query: str
    files: list[str] = field(default_factory=list)
    parts: list[Say | Step] = field(default_factory=list)
    state: State = State.STARTING
    note: str = ""
    trace: str = ""
    feedback: str = ""
    correction: str = ""
    first_token: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in (State.STARTING, State.RUNNING)

    @property
    def answer(self) -> str:
        """The last thing that the model said."""
        return next((part.text for part in reversed(self.parts) if isinstance(part, Say)), "")

    @classmethod
    def read(cls, row: Json) -> Turn:
        """Read what `asdict` made; a turn that was cut off by the end of the process is stopped."""
        parts = [Step(**part) if "tool" in part else Say(**part) for part in row["parts"]]
        turn = cls(**{**row, "parts": parts, "state": State(row["state"])})
        turn.state = turn.state if turn.over else State.STOPPED
        return turn


class Conversation:
    """The turns of one conversation, kept in the file `path`. Safe to use from several threads."""

    def __init__(self, path: Path, store: TraceStore) -> None:
        self._path = path
        self._store = store
        self._changed = Condition()
        self._version = 0
        self._cancel = Event()
        self._consent = Consent(self._tell)
        self.turns: list[Turn] = [Turn.read(row) for row in read_json(path)["turns"]] if path.is_file() else []

    @property
    def running(self) -> bool:
        """Whether a turn is under way."""
        return bool(self.turns) and not self.turns[-1].over

    def ask(self, query: str, make: Callable[[str], Cast], files: Sequence[str] = ()) -> None:
        """Begin a turn and return at once. `make` makes the agent, given a source to record under.

        Raises ToolweaveError while another turn is under way.
        """
        with self._changed:
            if self.running:
                raise ToolweaveError("the last question is still being answered", "stop it first")
            self._cancel = Event()
            turn = Turn(query, list(files))
            history = self._history()
            self.turns.append(turn)
            self._touch()
        run = _Run(self, turn, history, make, self._cancel)
        Thread(target=run, name="studio-visit", daemon=True).start()

    def stop(self) -> None:
        """Stop the turn under way: model and tools are told at once."""
        self._cancel.set()

    @property
    def question(self) -> Question | None:
        """The call that waits for the user's word, None if there is none."""
        return self._consent.question if self.running else None

    def consent(self, call: ToolCall) -> bool:
        """Ask the user about a call and return whether it may run; for `cast`, which gives it to the agent."""
        return self._consent.ask(call, self._cancel)

    def answer(self, answer: Answer) -> None:
        """Give the user's word on the call that waits."""
        self._consent.answer(answer)

    def rewind(self, turn: int) -> Turn:
        """Forget a turn and all after it, and return it, to be asked again or differently."""
        self.stop()
        self.wait()
        with self._changed:
            gone = self.turns[turn]
            del self.turns[turn:]
            self._touch()
            self._save()
        return gone

    def clear(self) -> None:
        """Forget everything."""
        if self.turns:
            self.rewind(0)

    def begin_with(self, turns: Sequence[Turn]) -> None:
        """Take over turns of another conversation; this one must be empty."""
        with self._changed:
            self.turns[:] = copy.deepcopy(list(turns))
            self._touch()
            self._save()

    def give_feedback(self, turn: int, kind: FeedbackKind, text: str = "") -> None:
        """Note in the trace what the user says of an answer. Raises DataError for one that is not recorded."""
        rated = self.turns[turn]
        self._store.give_feedback(rated.trace, kind, text)
        with self._changed:
            if kind is FeedbackKind.CORRECTION:
                rated.correction = text
            else:
                rated.feedback = kind.value
            self._save()

    async def follow(self, wanted: Callable[[], bool] = lambda: True) -> AsyncIterator[None]:
        """Yield now, and after changes until no turn is under way, or it is not `wanted` any more."""
        seen = -1
        while wanted():
            with self._changed:  # a turn that is over and the version that says so are one change
                done, version = not self.running, self._version
            if version != seen:
                seen = version
                yield
            if done:
                return
            await asyncio.sleep(_GLANCE)

    def wait(self, seconds: float | None = None) -> None:
        """Return when no turn is under way."""
        with self._changed:
            self._changed.wait_for(lambda: not self.running, seconds)

    def update(self, change: Callable[[], None]) -> None:
        """Make a change and tell those who follow; the end of a turn is written to the file."""
        with self._changed:
            change()
            if not self.running:
                self._save()
            self._touch()

    def trace_of(self, source: str, since: float) -> str:
        """Return the id of the last exchange that was recorded under a source, empty if there is none."""
        found = [trace.id for trace in self._store.traces(Filter(since=since)) if trace.exchange.source == source]
        return found[-1] if found else ""

    def _history(self) -> list[Message]:
        said = [(turn.query, turn.answer) for turn in self.turns if turn.answer]
        pairs = [(Message(role="user", content=q), Message(role="assistant", content=a)) for q, a in said]
        return [message for pair in pairs for message in pair]

    def _tell(self) -> None:
        with self._changed:
            self._touch()

    def _touch(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def _save(self) -> None:
        write_json(self._path, {"turns": [asdict(turn) for turn in self.turns]})


@dataclass(slots=True)
class _Run:
    """A turn in a thread of its own."""

    conversation: Conversation
    turn: Turn
    history: list[Message]
    make: Callable[[str], Cast]
    cancel: Event

    def __call__(self) -> None:
        source, since = f"studio:{secrets.token_hex(6)}", time.time()
        state, note = State.ENDED, ""
        try:
            state, note = self._visit(self.make(source))
        except ToolweaveError as error:
            note = str(error)
        except Exception as error:  # a thread has nobody to raise to, and the user has to see it
            log.exception("a visit failed")
            note = f"{type(error).__name__}: {error}"
        # The trace is there before anybody can rate the answer.
        trace = self.conversation.trace_of(source, since)

        def end() -> None:
            self.turn.state, self.turn.note, self.turn.trace = state, note, trace

        self.conversation.update(end)

    def _visit(self, cast: Cast) -> tuple[State, str]:
        """Run the visit and return how it ended, with a note where that needs one."""
        turn, agent, dialect = self.turn, cast.agent, cast.agent.dialect
        if self.cancel.is_set():
            return State.STOPPED, ""
        self.conversation.update(lambda: setattr(turn, "state", State.RUNNING))
        asked = time.perf_counter()
        began, stream, ended = asked, CallStream(dialect), (State.ENDED, "")
        events = agent.run_events(
            turn.query, history=self.history, lang=cast.lang, append_files=turn.files, cancel=self.cancel
        )
        for event in events:
            match event:
                case TextDelta(text):
                    if turn.first_token is None:
                        turn.first_token = time.perf_counter() - asked
                    self._say(stream.push(text).content)
                case CallStarted(call):
                    self._say(stream.finish().content)
                    stream, began = CallStream(dialect), time.perf_counter()
                    self._add(Step(call.name, call_arguments(call), call.name in cast.simulated))
                case Observed(call, observation, error):
                    self._observed(call.name, observation, error, time.perf_counter() - began)
                case Answered(text):
                    self._answer(text)
                    ended = State.ANSWERED, ""
                case LimitReached(reason, text):
                    ended = (State.STOPPED, "") if reason is LimitReason.CANCELLED else (State.ENDED, text)
        return ended

    def _add(self, part: Say | Step) -> None:
        self.conversation.update(lambda: self.turn.parts.append(part))

    def _say(self, text: str) -> None:
        last = self.turn.parts[-1] if self.turn.parts else None
        if text and isinstance(last, Say):
            self.conversation.update(lambda: setattr(last, "text", last.text + text))
        elif text:
            self._add(Say(text))

    def _answer(self, text: str) -> None:
        """Put the answer as the dialect reads it in place of what was shown while it came."""
        last = self.turn.parts[-1] if self.turn.parts else None
        if isinstance(last, Say):
            self.conversation.update(lambda: setattr(last, "text", text))
        else:
            self._add(Say(text))

    def _observed(self, tool: str, observation: str, error: bool, seconds: float) -> None:
        waiting = (part for part in self.turn.parts if isinstance(part, Step) and part.observation is None)
        step = next((part for part in waiting if part.tool == tool), None)
        if step is not None:

            def change() -> None:
                step.observation, step.error, step.seconds = observation, error, seconds

            self.conversation.update(change)
