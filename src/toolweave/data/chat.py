"""Conversations of any data set in one form, and the episode they make."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from toolweave.data.problems import Failure, RowError
from toolweave.dialects.agentfabric import contains_chinese
from toolweave.types import Episode, Json, Lang, Role, Step, ToolCall, ToolSpec, Turn

OPEN = "open"
"""Key of `Episode.meta`: how many of the last samples have no label, because the conversation stops early."""
PREFACES = "prefaces"
"""Key of `Episode.meta`: how many texts before a call were left out; an episode has no place for them."""

HISTORY = "history"
"""Key of `Episode.meta`: how many turns at the beginning are only shown, because no row answers them."""


class Speaker(StrEnum):
    """Who or what a message comes from."""

    USER = "user"
    ASSISTANT = "assistant"
    CALL = "call"
    OBSERVATION = "observation"


@dataclass(frozen=True, slots=True)
class Said:
    """One message. `id` links an observation to its call where the data set has ids."""

    speaker: Speaker
    text: str = ""
    call: ToolCall | None = None
    id: str = ""
    number: int = 0
    """Its place in the row, from 1, for error messages."""


@dataclass(slots=True)
class _Open:
    """A turn that is being read."""

    query: str
    steps: list[Step] = field(default_factory=list)
    pending: list[Said] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return bool(self.words) and not self.pending


def build_episode(
    said: Iterable[Said], tools: Sequence[ToolSpec], instruction: str | Role = "", meta: Json | None = None
) -> Episode:
    """Return the episode of a conversation.

    A conversation may stop after a call, or after an observation: what comes before is learned, and
    `meta[OPEN]` says how many samples at the end are without label. Raises RowError if roles do not
    take turns, an observation follows no call, or nothing can be learned.
    """
    turns: list[Turn] = []
    turn: _Open | None = None
    prefaces = 0
    for message in said:
        match message.speaker:
            case Speaker.USER:
                if turn is not None:
                    turns.append(_close(turn, message.number))
                turn = _Open(message.text)
                continue
            case _ if turn is None:
                raise _error(message.number, f"the {message.speaker} speaks before any user", Failure.ROLES)
            case Speaker.ASSISTANT:
                if turn.pending:
                    name = turn.pending[0].call.name if turn.pending[0].call else ""
                    raise _error(message.number, f"the call of {name!r} has no observation", Failure.OBSERVATION)
                if message.text.strip():
                    turn.words.append(message.text.strip())
            case Speaker.CALL:
                prefaces += len(turn.words)
                turn.words.clear()
                turn.pending.append(message)
            case Speaker.OBSERVATION:
                turn.steps.append(_observe(turn.pending, message))
    if turn is None:
        raise RowError("nobody says anything", "a conversation needs a user and a reply", failure=Failure.EMPTY)
    last, unlabelled = _last(turn)
    turns.append(last)
    if len(turns) == 1 and unlabelled == len(last.steps) + 1:
        raise RowError("the conversation has no reply", "it needs a call or an answer", failure=Failure.EMPTY)
    lang = Lang.ZH if any(contains_chinese(turn.query) for turn in turns) else Lang.EN
    counts = {OPEN: unlabelled, PREFACES: prefaces}
    noted = {**(meta or {}), **{key: count for key, count in counts.items() if count}}
    return Episode(tuple(tools), tuple(turns), instruction, lang, meta=noted)


def read_arguments(name: Any, arguments: Any) -> ToolCall:
    """Return the call with these arguments: an object, its JSON text, or that encoded once more. Raises RowError."""
    if not isinstance(name, str) or not name:
        raise RowError("a call has no name", 'a call is {"name": …, "arguments": {…}}')
    for _ in range(2):
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments) if arguments.strip() else {}
            except (ValueError, RecursionError) as error:
                raise RowError(f"the arguments of {name!r} are not JSON: {arguments[:80]!r}", "", tool=name) from error
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RowError(f"the arguments of {name!r} are not an object: {str(arguments)[:80]}", "", tool=name)
    return ToolCall(name, arguments)


def observation_text(value: object) -> str:
    """Return an observation as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _observe(pending: list[Said], message: Said) -> Step:
    found = next((said for said in pending if message.id and said.id == message.id), pending[0] if pending else None)
    if found is None or found.call is None:
        raise _error(message.number, "an observation follows no call", Failure.OBSERVATION)
    pending.remove(found)
    return Step(found.call, message.text)


def _close(turn: _Open, number: int) -> Turn:
    if not turn.complete:
        lacks = "the turn before it has no answer" if turn.steps or turn.pending else "two user messages in a row"
        raise _error(number, lacks, Failure.ROLES)
    return Turn(turn.query, tuple(turn.steps), "\n".join(turn.words))


def _last(turn: _Open) -> tuple[Turn, int]:
    """Return the last turn, and how many of its samples have no label."""
    if turn.complete:
        return Turn(turn.query, tuple(turn.steps), "\n".join(turn.words)), 0
    unseen = [Step(said.call, "") for said in turn.pending if said.call]
    # The first unanswered call can be learned; what came after it, and the answer, cannot.
    return Turn(turn.query, (*turn.steps, *unseen), ""), max(1, len(unseen))


def _error(number: int, message: str, failure: Failure) -> RowError:
    where = f"message {number}: " if number else ""
    return RowError(f"{where}{message}", "user, calls with observations, and answer take turns", failure=failure)
