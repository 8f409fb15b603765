"""Visits written by a teacher: a larger model behind an OpenAI-compatible server.

What it writes is hostile until checked: `agent_rows.collect` drops what does not match the schemas, is no answer to
its observations or was said before, and counts why.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from toolweave.data.agent_rows import MIX, AgentTools
from toolweave.data.problems import Failure, RowError
from toolweave.data.synthesize import Kind
from toolweave.dialects.parsing import read_object
from toolweave.models.interface import Model
from toolweave.types import Episode, Json, Lang, Message, Step, ToolCall, ToolSpec, Turn

_TRIES = 3
_ASK = """You write one training conversation between a user and an assistant that has the tools below.
The conversation: {kind}
The user and the assistant speak {lang}. The user speaks as people do, never names a tool, and gives every argument's
value in their own words; this time the tone is {tone}. Invent a plausible result for each call. The answer states what
the results say and nothing else.
Tools: {tools}
Reply with one JSON object and nothing else:
{{"turns": [{{"query": "…", "calls": [{{"name": "…", "arguments": {{}}, "observation": "…"}}], "answer": "…"}}]}}
"calls" is empty where the assistant answers without a tool.
"""
_KINDS = {
    Kind.ONE_CALL: "one turn, one call of the tool {tool}.",
    Kind.TWO_CALL: "one turn that needs two or three calls, the first of the tool {tool}.",
    Kind.FOLLOW_UP: "two turns that each call {tool}; the second briefly changes a value, as in `and tomorrow?`.",
    Kind.TOOL_ERROR: "one turn, one call of {tool} that fails with an error message; the answer says so honestly.",
    Kind.MISSING: "one turn without a call: the user wants {tool} but leaves out a required value; the answer asks.",
    Kind.NO_CALL: "one turn without a call: small talk, a question of knowledge, or something no tool here can do.",
}
_TONES = ("brief", "polite", "casual", "in a hurry", "detailed", "indirect", "like a text message", "formal")
_CALLS = {Kind.TWO_CALL: (2, 3), Kind.MISSING: (0, 0), Kind.NO_CALL: (0, 0)}
_LANGUAGES = {Lang.ZH: "Chinese", Lang.EN: "English"}


class Teacher:
    """Asks a model for visits to an agent; `concurrency` requests are under way at once."""

    def __init__(self, model: Model, agent: AgentTools, seed: int = 0, concurrency: int = 4) -> None:
        self._model, self._agent, self._concurrency = model, agent, concurrency
        self._rng = random.Random(seed)

    def drafts(self, count: int) -> Iterator[Episode | RowError]:
        """Yield up to three times `count` visits, in the order asked for; what cannot be read comes as its error.

        Raises ServerError when the teacher cannot be reached.
        """
        orders = iter([self._order() for _ in range(count * _TRIES)])
        with ThreadPoolExecutor(self._concurrency) as pool:
            while wave := list(islice(orders, self._concurrency)):
                yield from pool.map(lambda order: self._visit(*order), wave)

    def _order(self) -> tuple[Kind, ToolSpec, str]:
        kind = self._rng.choices(list(MIX), weights=list(MIX.values()))[0]
        return kind, self._rng.choice(self._agent.tools), self._rng.choice(_TONES)

    def _visit(self, kind: Kind, tool: ToolSpec, tone: str) -> Episode | RowError:
        tools = json.dumps([each.openai()["function"] for each in self._agent.tools], ensure_ascii=False)
        about = _KINDS[kind].format(tool=tool.name)
        ask = _ASK.format(kind=about, lang=_LANGUAGES[self._agent.lang], tone=tone, tools=tools)
        try:
            turns = _read("".join(self._model.complete([Message(role="user", content=ask)], ())), kind)
        except RowError as error:
            return error
        meta = {"kind": kind.value, "lang": self._agent.lang.value, "teacher": True}
        return Episode(self._agent.tools, turns, self._agent.instruction, self._agent.lang, meta=meta)


def _read(reply: str, kind: Kind) -> tuple[Turn, ...]:
    """Return the turns of a teacher's reply. Raises RowError."""
    found = read_object(reply[max(reply.find("{"), 0) :])
    try:
        turns = tuple(_turn(turn) for turn in (found[0] if found else {})["turns"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RowError(f"the teacher's reply is no conversation: {reply[:80]!r}") from error
    fewest, most = _CALLS.get(kind, (1, 1))
    calls = [len(turn.steps) for turn in turns]
    if len(turns) != 1 + (kind is Kind.FOLLOW_UP) or not all(fewest <= number <= most for number in calls):
        raise RowError(f"{kind} has other turns and calls", failure=Failure.UNLIKE)
    return turns


def _turn(turn: Json) -> Turn:
    query, answer = turn["query"], turn["answer"]
    if not (isinstance(query, str) and isinstance(answer, str) and query.strip() and answer.strip()):
        raise ValueError("a turn needs a query and an answer")
    steps = tuple(
        Step(ToolCall(call["name"], dict(call["arguments"])), _text(call["observation"])) for call in turn["calls"]
    )
    return Turn(query.strip(), steps, answer.strip())


def _text(observation: object) -> str:
    return observation if isinstance(observation, str) else json.dumps(observation, ensure_ascii=False)
