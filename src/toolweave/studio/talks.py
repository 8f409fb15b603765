"""The conversations that a browser has with an agent: begun, listed, and forked from any step of one."""

from __future__ import annotations

from dataclasses import dataclass

from toolweave.errors import ToolweaveError
from toolweave.studio.conversation import Conversation, Say, Step, Turn
from toolweave.studio.rerun import Rerun
from toolweave.studio.text import say
from toolweave.studio.workspace import Home, part
from toolweave.types import Lang

_TITLE = 40


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a conversation to go on from: before the question of a turn, behind a step of it, or behind it all.

    `steps` are those that are kept: 0 for the question, None for the whole turn.
    """

    turn: int
    steps: int | None

    @classmethod
    def read(cls, text: str) -> Place:
        """Read what `str` made. Raises ToolweaveError for anything else."""
        turn, _, steps = text.partition(".")
        if not turn.isdecimal() or not (steps.isdecimal() or not steps):
            raise ToolweaveError("choose where to go on from")
        return cls(int(turn), int(steps) if steps else None)

    def __str__(self) -> str:
        return f"{self.turn}.{'' if self.steps is None else self.steps}"


@dataclass(frozen=True, slots=True)
class Fork:
    """A new conversation that begins as another one did.

    There is a `query` where its next turn is known: with a `rerun` it goes on at once, without one it waits to be
    edited and asked.
    """

    talk: str
    query: str = ""
    files: tuple[str, ...] = ()
    rerun: Rerun | None = None


def talks(home: Home, agent: str, session: str, lang: Lang) -> dict[str, str]:
    """Return the titles of a session's conversations with an agent by id, the one of the last change first."""
    folder = home.conversations / part(agent)
    found = [path for path in folder.glob(f"{part(session)}*.json") if _is_of(path.stem, session)]
    names = [path.stem for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)]
    return {name: title(home.conversation(agent, name), lang) for name in names or [session]}


def title(talk: Conversation, lang: Lang) -> str:
    """Return what a conversation is called: its first question, and how many there are."""
    if not talk.turns:
        return say("preview.new_talk", lang)
    first = " ".join(talk.turns[0].query.split()) or "…"
    return f"{first[:_TITLE]} ({len(talk.turns)})"


def own_talk(talk: str | None, session: str) -> str:
    """Return the id of a conversation if it is of the session, else that of the session's first one."""
    return talk if talk and _is_of(talk, session) else session


def begin(home: Home, agent: str, session: str) -> str:
    """Begin a conversation and return its id."""
    folder = home.conversations / part(agent)
    taken = [path.stem.removeprefix(f"{session}.") for path in folder.glob(f"{part(session)}.*.json")]
    talk = f"{session}.{max([1, *(int(number) for number in taken if number.isdecimal())]) + 1}"
    home.conversation(agent, talk).begin_with(())
    return talk


def places(talk: Conversation, lang: Lang) -> dict[str, str]:
    """Return the places of a conversation to go on from, in order, with what they are called."""
    found: dict[str, str] = {}
    for number, turn in enumerate(talk.turns):
        if not turn.over:
            break
        query = " ".join(turn.query.split())[:_TITLE]
        found[str(Place(number, 0))] = say("preview.from_question", lang, number=number + 1, query=query)
        if turn.trace:
            steps = [step for step in turn.parts if isinstance(step, Step)]
            for at, step in enumerate(steps, 1):
                name = say("preview.from_step", lang, number=number + 1, step=at, tool=step.tool)
                found[str(Place(number, at))] = name
        if any(isinstance(part, Say) for part in turn.parts):
            found[str(Place(number, None))] = say("preview.from_answer", lang, number=number + 1)
    return found


def fork(home: Home, agent: str, session: str, talk: Conversation, place: Place) -> Fork:
    """Make a conversation that begins as another did up to a place; that one stays as it is.

    Raises ToolweaveError for a place that is not there, or whose steps are not recorded.
    """
    if place.turn >= len(talk.turns) or not talk.turns[place.turn].over:
        raise ToolweaveError("this turn is not over", "wait for its end, or stop it")
    turn: Turn = talk.turns[place.turn]
    rerun = Rerun.of(turn, place.steps, home.traces) if place.steps else None
    new = begin(home, agent, session)
    kept = place.turn + 1 if place.steps is None else place.turn
    home.conversation(agent, new).begin_with(talk.turns[:kept])
    return Fork(new) if place.steps is None else Fork(new, turn.query, tuple(turn.files), rerun)


def _is_of(talk: str, session: str) -> bool:
    number = talk.removeprefix(f"{session}.")
    return talk == session or (number != talk and number.isdecimal())
