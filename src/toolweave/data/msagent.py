"""Reader of ms_agent rows: ReAct conversations with the tools in the system prompt.

A row is `{"id", "conversations": [{"from": "system" | "user" | "assistant", "value": text}, …]}`.
An assistant turn holds a whole sequence of Thought, Action, Action Input and Observation up to its
Final Answer. Thoughts have no place in an Episode and are left out; everything else is kept whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from toolweave.data.jsonl import encode_row
from toolweave.data.msagent_tools import has_frame, read_system, with_types
from toolweave.dialects.agentfabric import contains_chinese
from toolweave.dialects.parsing import read_call
from toolweave.errors import DataError
from toolweave.types import Episode, InvalidToolCall, Lang, Step, ToolCall, ToolSpec, Turn

_ROLES = ("system", "user", "assistant")
_CALL = re.compile(
    r"^[ \t]*Action[ \t]*[:：][ \t]*(?P<name>[^\n]*?)[ \t]*(?:\n\s*|[ \t]+)Action[ \t]+Input[ \t]*[:：]", re.MULTILINE
)
_OBSERVATION = re.compile(r"^[ \t]*Observation[ \t]*[:：]", re.MULTILINE)
_FINAL = re.compile(r"^[ \t]*Final[ \t]+Answer[ \t]*[:：]", re.MULTILINE)
_THOUGHT = re.compile(r"^[ \t]*Thought[ \t]*[:：]", re.MULTILINE)
_AFTER_OBSERVATION = re.compile("|".join(p.pattern for p in (_THOUGHT, _FINAL, _CALL)), re.MULTILINE)
_STRAY = re.compile(r"^[ \t]*(?:Action|Action[ \t]+Input|Observation)[ \t]*[:：]", re.MULTILINE)
_SEQUENCE_HINT = "a call is Action, Action Input and Observation, each on its own line; Final Answer ends a turn"


class _Said(NamedTuple):
    """A message with its place in the row, for error messages."""

    role: str
    text: str
    number: int


def is_react(system: str, reply: str) -> bool:
    """Tell whether a system message has ms_agent's tool frame, or a reply its calls."""
    return has_frame(system) or _CALL.search(reply) is not None


def is_ms_agent(row: Mapping[str, Any]) -> bool:
    """Tell whether a row has ms_agent's tool frame or calls in its conversation."""
    said = row.get("conversations")
    texts = [str(m.get("value")) for m in said if isinstance(m, Mapping)] if isinstance(said, list) else []
    return bool(texts) and any(is_react(text, text) for text in texts)


def parse_row(row: Mapping[str, Any], tools: Sequence[ToolSpec] | None = None) -> Episode:
    """Return the episode of a row; its `id` is kept in `meta`.

    The language of the prompt frame is Chinese if a user message has Chinese. Parameters have no type
    in ms_agent: it is read off the row's own arguments. `tools`, if given, stand for those of the system
    message. Raises DataError on a row that cannot be read whole.
    """
    said = _messages(row)
    first = said[0].text if said[0].role == "system" else ""
    system = read_system(first)
    turns = tuple(_turns(said[1:] if said[0].role == "system" else said))
    calls = [step.call for turn in turns for step in turn.steps]
    typed = with_types(system.tools, calls) if tools is None else tuple(tools)
    lang = Lang.ZH if any(contains_chinese(turn.query) for turn in turns) else Lang.EN
    meta = {"id": row["id"]} if "id" in row else {}
    return Episode(typed, turns, system.instruction, lang, meta=meta)


def _messages(row: Mapping[str, Any]) -> list[_Said]:
    conversations = row.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        raise DataError("the row has no conversations", 'it needs "conversations": [{"from": …, "value": …}, …]')
    said: list[_Said] = []
    for number, message in enumerate(conversations, start=1):
        role, text = (message.get("from"), message.get("value")) if isinstance(message, dict) else (None, None)
        if role not in _ROLES:
            raise DataError(f"message {number} has an unknown role: {role!r}", f"use one of {', '.join(_ROLES)}")
        if not isinstance(text, str):
            raise DataError(f"message {number} has no text", 'its "value" must be a string')
        if role == "system" and number > 1:
            raise DataError(f"message {number} is a system message", "only the first message may be one")
        said.append(_Said(role, text, number))
    return said


def _turns(said: list[_Said]) -> list[Turn]:
    for index, message in enumerate(said):
        expected = _ROLES[1 + index % 2]
        if message.role != expected:
            raise DataError(
                f"message {message.number} is from the {message.role}, where the {expected} should speak",
                "user and assistant must take turns",
            )
    if not said or len(said) % 2:
        raise DataError("the conversation does not end with an assistant message", "add the reply, or drop the row")
    turns = []
    for user, assistant in zip(said[::2], said[1::2], strict=True):
        try:
            turns.append(Turn(user.text, *_assistant_turn(assistant.text)))
        except DataError as error:
            raise DataError(f"message {assistant.number}: {error}") from error
    return turns


def _assistant_turn(text: str) -> tuple[tuple[Step, ...], str]:
    """Return calls and observations, and the answer, of an assistant message."""
    steps: list[Step] = []
    at = 0
    while True:
        call, final = _CALL.search(text, at), _FINAL.search(text, at)
        if call is None or (final is not None and final.start() < call.start()):
            break
        _refuse_stray(text[at : call.start()])
        step, at = _step(text, call)
        steps.append(step)
    _refuse_stray(text[at : final.start() if final else len(text)])
    if final is None and (steps or _THOUGHT.search(text)):
        raise DataError("the turn ends without a Final Answer", _SEQUENCE_HINT)
    answer = text[final.end() if final else at :].strip()
    if not answer:
        raise DataError("the answer is empty", _SEQUENCE_HINT)
    return tuple(steps), answer


def _step(text: str, call: re.Match[str]) -> tuple[Step, int]:
    """Read one call and its observation; return them and where the next part begins."""
    rest = text[call.end() :]
    observation = _OBSERVATION.search(rest)
    blank = observation is not None and not rest[: observation.start()].strip()
    read = read_call(call["name"], "" if blank else rest)
    if isinstance(read, InvalidToolCall):
        raise DataError(
            f"the call of {read.name!r} cannot be read: {read.reason}: {read.raw[:80]!r}",
            "write the Action Input as a JSON object or a Python dict",
        )
    # The marker is looked for after the arguments, whose strings may hold any text.
    observation = _OBSERVATION.search(rest, rest.find(read.raw) + len(read.raw))
    if observation is None:
        raise DataError(f"the call of {read.name!r} has no Observation", _SEQUENCE_HINT)
    following = _AFTER_OBSERVATION.search(rest, observation.end())
    end = following.start() if following else len(rest)
    try:
        encode_row(read.arguments)
    except ValueError as error:
        raise DataError(f"the arguments of {read.name!r} are not JSON: {error}", "use finite numbers") from error
    shown = rest[observation.end() : end].removeprefix(" ").strip("\n")
    return Step(ToolCall(read.name, read.arguments), shown), call.end() + end


def _refuse_stray(text: str) -> None:
    """Raise DataError on half a call, which would otherwise pass for prose."""
    if stray := _STRAY.search(text):
        raise DataError(f"half a call: {text[stray.start() :][:80]!r}", _SEQUENCE_HINT)
