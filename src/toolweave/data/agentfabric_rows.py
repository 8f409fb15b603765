"""Reader of rows that are AgentFabric requests already (the ms_agent_for_agentfabric data sets).

A row shows one model call: system message, user message with the trace so far, and the reply. The rows
of one visit follow each other, each growing the one before; they are joined again. Rows that the seed's
script converted have the system message in this format, and whole ReAct sequences as replies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from enum import Enum, auto
from functools import lru_cache
from typing import Any

from toolweave.data import msagent
from toolweave.data.chat import HISTORY, OPEN, Said, Speaker, build_episode
from toolweave.data.chat_rows import messages_of
from toolweave.data.problems import Failure, RowError
from toolweave.data.schemas import read_tools
from toolweave.dialects import AgentFabric
from toolweave.dialects.reading import Reading
from toolweave.types import Episode, InvalidToolCall, Json, Lang, Message, ToolSpec

_CLIENTS = (AgentFabric("v06"), AgentFabric("v07"))
_HEAD = re.compile(r"#\s*(?:工具|Tools)\s*\n+##\s*(?:你拥有如下工具|You have the following tools)\s*[:：]\s*")
_LINE = re.compile(
    r"(?P<name>[^\s:：]+)[ \t]*[:：]\s*(?P<api>\S*)\s+API(?:。|\. ?)(?P<description>.*?)\s*"
    r"(?:输入参数|Parameters)\s*[:：]\s*(?P<parameters>\{.*?\})\s*Format the arguments as a JSON object\.",
    re.DOTALL,
)
_BLOCK_END = re.compile(r"##\s*(?:当你需要调用工具时|When you need to call a tool)")
_ROLE = re.compile(r"\n#\s*(?:指令|Instructions)\s*\n+(?P<role>.*?)(?:\n+(?:请注意|Note)[:：].*)?\Z", re.DOTALL)
_NOTES = re.compile(r"^\((?:[^()]*)(?:你可以使用工具|you can use tools)[:：]\s*\[[^\]]*\][^()]*\)\s*")


class _Next(Enum):
    """How a row goes on from the row before."""

    SAME_TURN = auto()
    NEXT_TURN = auto()
    OTHER_VISIT = auto()


def is_agentfabric(row: Mapping[str, Any]) -> bool:
    """Tell whether the system message of a chat row shows tools the way AgentFabric does."""
    role, content, _ = messages_of(row)[0]
    return role == "system" and isinstance(content, str) and _HEAD.search(content) is not None


def join_visits(rows: Iterable[tuple[int, Json]]) -> Iterator[tuple[int, Json]]:
    """Yield one row `{"visit": [row, …], "rows": how many}` with the line of its first, for each visit.

    Of rows that grow each other within a turn only the last is kept: it shows all calls of the turn.
    """
    line, count, visit = 0, 0, list[Json]()
    for number, row in rows:
        step = _step(visit[-1], row) if visit else _Next.OTHER_VISIT
        if step is _Next.SAME_TURN:
            visit[-1] = row
        elif step is _Next.NEXT_TURN:
            visit.append(row)
        else:
            if visit:
                yield line, {"visit": visit, "rows": count}
            line, count, visit = number, 0, [row]
        count += 1
    if visit:
        yield line, {"visit": visit, "rows": count}


def read_agentfabric_row(row: Mapping[str, Any]) -> Episode:
    """Return the episode of a row, or of a visit's rows as `join_visits` gives them. Raises RowError.

    History that no row of the visit answers is kept, and `meta[HISTORY]` says how many turns it is.
    """
    first, *later = [_read(turn) for turn in row.get("visit", [row])]
    if not later:
        return first
    last = later[-1]
    turns = (*first.turns, *(episode.turns[-1] for episode in later))
    unlabelled = {OPEN: last.meta[OPEN]} if OPEN in last.meta else {}
    return replace(first, turns=turns, meta={**first.meta, **unlabelled})


def _read(row: Mapping[str, Any]) -> Episode:
    messages, reply = _request(row)
    for client in _CLIENTS:
        reading = client.read_prompt(messages)
        if reading is not None:
            return _episode(row, client, reading, reply)
    return _loose_episode(row)


def _episode(row: Mapping[str, Any], client: AgentFabric, reading: Reading, reply: str) -> Episode:
    prompt, trace = reading
    said = [
        Said(Speaker.USER if message["role"] == "user" else Speaker.ASSISTANT, message["content"])
        for message in prompt.history
    ]
    said.append(Said(Speaker.USER, prompt.query))
    for exchange in trace:
        said += [*_calls(client, exchange.reply), Said(Speaker.OBSERVATION, exchange.observation)]
    said += _calls(client, reply) or [Said(Speaker.ASSISTANT, reply)]
    meta = {"id": row["id"]} if row.get("id") is not None else {}
    episode = build_episode(said, prompt.tools, prompt.instruction, meta)
    last = replace(episode.turns[-1], files=prompt.files)
    past = {HISTORY: len(episode.turns) - 1} if prompt.history else {}
    return replace(
        episode,
        turns=(*episode.turns[:-1], last),
        lang=prompt.lang,
        knowledge=prompt.knowledge,
        meta={**episode.meta, **past},
    )


def _calls(client: AgentFabric, reply: str) -> list[Said]:
    calls = client.parse(reply).calls
    for call in calls:
        if isinstance(call, InvalidToolCall):
            raise RowError(f"the call of {call.name!r} cannot be read: {call.reason}", "", tool=call.name)
    return [Said(Speaker.CALL, call=call) for call in calls[:1] if not isinstance(call, InvalidToolCall)]


def _request(row: Mapping[str, Any]) -> tuple[list[Message], str]:
    """Return the messages that were sent, and the reply: `completion`, or the last message."""
    said = [Message(role=_role(role), content=str(content or "")) for role, content, _ in messages_of(row)]
    if isinstance(row.get("completion"), str):
        return said, row["completion"]
    if said[-1]["role"] != "assistant":
        raise RowError("the row does not end with a reply", "add the reply, or drop the row", failure=Failure.EMPTY)
    return said[:-1], said[-1]["content"]


def _role(role: str) -> str:
    return {"human": "user", "gpt": "assistant"}.get(role, role)


def _step(row: Mapping[str, Any], later: Mapping[str, Any]) -> _Next:
    """Tell how the later row goes on from this one: its request must hold this request and this reply."""
    try:
        (messages, reply), (grown, _) = _request(row), _request(later)
    except RowError:
        return _Next.OTHER_VISIT
    said, asked = reply.split("Observation:")[0].strip(), messages[-1]["content"]
    if not said or messages[0] != grown[0]:
        return _Next.OTHER_VISIT
    if messages[:-1] == grown[:-1] and grown[-1]["content"].startswith(asked + said):
        return _Next.SAME_TURN
    # The next turn: the bare query and the answer have gone into the history.
    history = grown[1:-1]
    before, pair = history[:-2], history[-2:]
    if before == messages[1:-1] and len(pair) == 2 and pair[1]["content"].strip() == said:
        return _Next.NEXT_TURN if pair[0]["content"] in asked else _Next.OTHER_VISIT
    return _Next.OTHER_VISIT


def _loose_episode(row: Mapping[str, Any]) -> Episode:
    """Return the episode of a row whose system message no client wrote exactly, as the seed's script made them."""
    said = messages_of(row)
    tools, role = _loose_system(str(said[0][1]))
    conversations = [{"from": _role(r), "value": _NOTES.sub("", str(content or ""))} for r, content, _ in said[1:]]
    if isinstance(row.get("completion"), str):
        conversations.append({"from": "assistant", "value": row["completion"]})
    meta = {"id": row["id"]} if row.get("id") is not None else {}
    episode = msagent.parse_row({**meta, "conversations": conversations}, tools)
    return replace(episode, instruction=role, lang=Lang.ZH)


@lru_cache(maxsize=256)
def _loose_system(system: str) -> tuple[tuple[ToolSpec, ...], str]:
    head, end = _HEAD.search(system), _BLOCK_END.search(system)
    block = system[head.end() : end.start() if end else len(system)] if head else ""
    found = [
        {"name": line["name"], "description": line["description"], "parameters": line["parameters"]}
        for line in _LINE.finditer(block)
    ]
    if block.count("Format the arguments as a JSON object.") != len(found):
        raise RowError(
            "the tools of the system message cannot be read", "convert the original ms_agent rows instead",
            failure=Failure.SCHEMA,
        )  # fmt: skip
    role = _ROLE.search(system)
    return read_tools(found), role["role"].strip() if role else ""
