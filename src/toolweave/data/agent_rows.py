"""Visits for an agent of your own, from its tool schemas alone: no catalogue entry, no teacher.

Requests come from descriptions, values from schemas and names, observations from result schemas or invented fields.
Most visits show the agent's own prompt; some show a part of its tools, in another order or among strangers', so that
names and schemas are read rather than remembered.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from toolweave.data.agent_requests import Requests
from toolweave.data.agent_values import Value, draw, entry, label, words
from toolweave.data.catalogue import Breadth, Split, load_catalogue
from toolweave.data.load import render
from toolweave.data.problems import Failure, RowError
from toolweave.data.synthesize import Kind
from toolweave.data.validate import check_episode
from toolweave.dialects import Dialect, get_dialect
from toolweave.errors import DataError
from toolweave.facts import check_answer
from toolweave.tools.simulate import example
from toolweave.types import Episode, Json, Lang, Role, Sample, Step, ToolCall, ToolSpec, Turn

MIX = {
    Kind.ONE_CALL: 0.44,
    Kind.TWO_CALL: 0.14,
    Kind.FOLLOW_UP: 0.12,
    Kind.TOOL_ERROR: 0.08,
    Kind.MISSING: 0.10,
    Kind.NO_CALL: 0.12,
}
"""How often each kind of visit is made."""
_TRIES = 20
_OPTIONAL = 0.25
_VARIED = 0.3


@dataclass(frozen=True, slots=True)
class AgentTools:
    """What rows are made for: an agent's tools and instruction; `results` has JSON Schemas of results by tool."""

    tools: tuple[ToolSpec, ...]
    instruction: str | Role = ""
    lang: Lang = Lang.ZH
    results: Mapping[str, Json] = field(default_factory=dict)


class Visits(NamedTuple):
    """Samples, how many visits of each kind they come from, and why drafts were not used."""

    samples: list[Sample]
    kinds: Counter[str]
    dropped: Counter[str]


class _Asked(NamedTuple):
    """A call with its values, what came of it, and the sentence about it."""

    tool: ToolSpec
    values: Mapping[str, Value]
    step: Step
    fact: str


def collect(
    drafts: Iterator[Episode | RowError], count: int, dialect: Dialect, done: Callable[[], None] = lambda: None
) -> Visits:
    """Check and render drafts until there are `count` visits, each unlike the others.

    A draft must pass the checks that any data set passes, be sayable in the dialect, and answer what its tools
    returned. Raises DataError if no draft does.
    """
    visits, seen = Visits([], Counter(), Counter()), set[str]()
    for draft in drafts:
        try:
            if isinstance(draft, RowError):
                raise draft
            asked = json.dumps([turn.query.casefold() for turn in draft.turns])
            if asked in seen:
                visits.dropped["said before"] += 1
                continue
            samples = _checked(draft, dialect)
        except RowError as error:
            visits.dropped[error.failure] += 1
            continue
        seen.add(asked)
        visits.samples.extend(samples)
        visits.kinds[draft.meta["kind"]] += 1
        done()
        if visits.kinds.total() >= count:
            break
    if not visits.samples:
        reasons = ", ".join(f"{number} {reason}" for reason, number in visits.dropped.most_common())
        raise DataError(f"no visit could be made: {reasons or 'no drafts'}", "see that the tools have descriptions")
    return visits


def _checked(draft: Episode, dialect: Dialect) -> list[Sample]:
    check_episode(draft)
    for turn in draft.turns:
        observations = [step.observation for step in turn.steps]
        said = (text for each in draft.turns for text in (each.query, each.answer) if each is not turn)
        instruction = json.dumps(draft.instruction, ensure_ascii=False)
        if flaws := check_answer(turn.answer, observations, [turn.query, instruction, *said], lang=draft.lang):
            raise RowError(f"the answer is {flaws[0].flaw}: {flaws[0].evidence}", failure=Failure.UNFAITHFUL)
    return render(dialect, draft)


class AgentRows:
    """Draws visits from templates; the same seed gives the same."""

    def __init__(self, agent: AgentTools, seed: int = 0) -> None:
        if not agent.tools:
            raise DataError("the agent has no tools", "name an agent, an OpenAPI document or an MCP server with tools")
        self._agent, self._lang = agent, agent.lang
        self._rng = random.Random(seed)
        self._requests = Requests(agent.lang, self._rng)
        catalogue = load_catalogue()
        own = {tool.name for tool in agent.tools}
        others = [tool.spec(agent.lang) for other in catalogue.known(Breadth.ALL) for tool in other.tools]
        self._strangers = [tool for tool in others if tool.name not in own]

    def drafts(self, count: int) -> Iterator[Episode]:
        """Yield more than enough visits for `count`, kinds and tools taking turns at random."""
        kinds = self._rng.choices(list(MIX), weights=list(MIX.values()), k=count * _TRIES)
        make: dict[Kind, Callable[[ToolSpec], list[Turn]]] = {
            Kind.ONE_CALL: self._one_call,
            Kind.TWO_CALL: self._two_call,
            Kind.FOLLOW_UP: self._follow_up,
            Kind.TOOL_ERROR: self._tool_error,
            Kind.MISSING: self._missing,
            Kind.NO_CALL: self._no_call,
        }
        for kind in kinds:
            tool = self._rng.choice(self._agent.tools)
            if kind is Kind.NO_CALL and len(self._agent.tools) > 1 and self._rng.random() < 0.3:
                turns, tools = self._unfit(tool), self._shown([other for other in self._agent.tools if other != tool])
            else:
                turns = make[kind](tool)
                if not turns:
                    continue  # this tool has no such visit
                called = {step.call.name for turn in turns for step in turn.steps} | {tool.name}
                tools = self._shown([tool for tool in self._agent.tools if tool.name in called], self._agent.tools)
            meta = {"kind": kind.value, "lang": self._lang.value}
            yield Episode(tools, tuple(turns), self._agent.instruction, self._lang, meta=meta)

    def _shown(self, needed: list[ToolSpec], all_: tuple[ToolSpec, ...] | None = None) -> tuple[ToolSpec, ...]:
        """Return the tools of a prompt: the agent's own, or some of them and strangers."""
        rng = self._rng
        if all_ is not None and rng.random() >= _VARIED:
            return all_
        rest = [tool for tool in all_ or () if tool not in needed]
        strangers = rng.sample(self._strangers, k=min(rng.choice((0, 1, 2, 3)), len(self._strangers)))
        tools = [*needed, *rng.sample(rest, k=rng.randint(0, len(rest))), *strangers]
        rng.shuffle(tools)
        return tuple(tools)

    # --- kinds -------------------------------------------------------------------------------

    def _one_call(self, tool: ToolSpec) -> list[Turn]:
        asked = self._ask(tool)
        return [self._turn(self._requests.sentence(tool, asked.values), asked)]

    def _two_call(self, tool: ToolSpec) -> list[Turn]:
        pair = self._ask(tool), self._ask(self._rng.choice(self._agent.tools))
        if pair[0].step.call == pair[1].step.call:
            return []
        first, second = (self._requests.sentence(each.tool, each.values, bare=True) for each in pair)
        return [self._turn(self._requests.finish(self._requests.pick("join").format(a=first, b=second)), *pair)]

    def _follow_up(self, tool: ToolSpec) -> list[Turn]:
        first, fresh = self._ask(tool), self._ask(tool)
        changed = next((name for name in first.values if first.values[name] != fresh.values.get(name)), None)
        if changed is None or changed not in fresh.values:
            return []
        second = self._call(tool, {**first.values, changed: fresh.values[changed]})
        key, value = self._requests.label(tool, changed), fresh.values[changed].text
        query = self._requests.pick("follow").format(k=key, v=value)
        asked = self._requests.sentence(tool, first.values)
        return [self._turn(asked, first), self._turn(self._requests.finish(query), second)]

    def _tool_error(self, tool: ToolSpec) -> list[Turn]:
        asked, detail = self._ask(tool), self._requests.pick("failure")
        framed = get_dialect("v06").error_observation(asked.step.call, detail)
        step = replace(asked.step, observation=framed if self._rng.random() < 0.6 else detail)
        answer = self._requests.pick("failed").format(d=detail)
        return [Turn(self._requests.sentence(tool, asked.values), (step,), answer)]

    def _missing(self, tool: ToolSpec) -> list[Turn]:
        required = [name for name in tool.parameters.get("required", ()) if name in tool.parameters["properties"]]
        if not required:
            return []
        asked, missing = self._ask(tool), self._rng.choice(required)
        told = {name: value for name, value in asked.values.items() if name != missing}
        key = self._requests.label(tool, missing)
        question = Turn(self._requests.sentence(tool, told), (), self._requests.pick("ask").format(k=key))
        if self._rng.random() < 0.5:
            return [question]
        supplied = self._requests.pick("supply").format(k=key, v=asked.values[missing].text)
        return [question, self._turn(supplied, asked)]

    def _no_call(self, tool: ToolSpec) -> list[Turn]:
        kind = self._rng.choice(("greetings", "thanks", "chat", "chat"))
        pair = self._rng.choice(load_catalogue().talk(kind, self._lang, Split.TRAIN))
        history = self._one_call(tool) if kind == "thanks" or self._rng.random() < 0.2 else []
        return [*history, Turn(pair["q"], (), pair["a"])]

    def _unfit(self, tool: ToolSpec) -> list[Turn]:
        """Ask for a tool that is not shown."""
        query = self._requests.sentence(tool, self._ask(tool).values)
        return [Turn(query, (), self._requests.pick("unfit"))]

    # --- pieces ------------------------------------------------------------------------------

    def _ask(self, tool: ToolSpec) -> _Asked:
        properties = tool.parameters.get("properties") or {}
        required = tool.parameters.get("required") or ()
        values: dict[str, Value] = {}
        # Properties often come by the alphabet, `required` in the order in which people say them.
        for name in dict.fromkeys([*(name for name in required if name in properties), *properties]):
            if name in required or self._rng.random() < _OPTIONAL:
                drawn = [draw(name, properties[name], self._lang, self._rng) for _ in range(3)]
                # Origin and destination are rarely the same.
                values[name] = next((value for value in drawn if value not in values.values()), drawn[0])
        return self._call(tool, values)

    def _call(self, tool: ToolSpec, values: Mapping[str, Value]) -> _Asked:
        call = ToolCall(tool.name, {name: value.value for name, value in values.items()})
        found = self._result(tool)
        shown = {key: value for key, (_, value) in found.items()}
        labelled = [self._requests.pick("fact").format(k=name, v=_spoken(value)) for name, value in found.values()]
        fact = ("，" if self._lang is Lang.ZH else ", ").join(labelled)
        plain = self._rng.random() < 0.3 and found
        observation = fact if plain else json.dumps(shown or {"status": "success"}, ensure_ascii=False)
        return _Asked(tool, values, Step(call, observation), fact or "success")

    def _result(self, tool: ToolSpec) -> dict[str, tuple[str, Any]]:
        """Return what a call returns: key to label and value."""
        schema = self._agent.results.get(tool.name)
        made = example(schema, self._rng) if schema else None
        if isinstance(made, dict):
            properties = (schema or {}).get("properties") or {}
            plain = {key: value for key, value in made.items() if not isinstance(value, dict | list | type(None))}
            return {key: (label(key, properties.get(key) or {}, self._lang), value) for key, value in plain.items()}
        fields = entry("results", f"{words(tool.name)} {tool.description}")["fields"]
        some = self._rng.sample(fields, k=self._rng.randint(1, len(fields)))
        return {key: (zh if self._lang is Lang.ZH else en, self._found(range_)) for key, zh, en, range_ in some}

    def _found(self, range_: list[int] | dict[str, list[str]] | None) -> int | str:
        match range_:
            case None:
                return "success"
            case dict():
                return self._rng.choice(range_[self._lang])
        return self._rng.randint(*range_)

    def _turn(self, query: str, *asked: _Asked) -> Turn:
        facts = ("；" if self._lang is Lang.ZH else "; ").join(each.fact for each in asked)
        answer = self._requests.pick("answer").format(f=facts)
        answer = answer[:1].upper() + answer[1:]
        return Turn(query, tuple(each.step for each in asked), answer)


def _spoken(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
