"""Episodes from the catalogue: training groups that share a prompt, and held-out visits.

Everything is drawn from one seeded generator, so the same seed gives the same rows everywhere.
Training draws from `Split.TRAIN` and varies the prompt (which tools, their order and names, how the
role is told, client version); held-out visits draw phrases and values from `Split.TEST` and show
the agents as their authors wrote them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import cycle, islice, repeat
from typing import Any

from toolweave.data.answers import apologise, retell
from toolweave.data.catalogue import (
    TEST_PAIRS,
    Agent,
    Breadth,
    Catalogue,
    CatalogueTool,
    Drawn,
    Split,
    fill,
    load_catalogue,
    placeholders,
)
from toolweave.dialects import get_dialect
from toolweave.types import Episode, Lang, Role, Sample, Step, ToolCall, ToolSpec, Turn

VISITS_PER_GROUP = 18
# So many of them are trained from the question to the answer; of the others only the first request, where the model
# decides whether and what to call. That is the harder part, and costs a third.
_WHOLE_VISITS = 2
# First calls are most rows, and a model that only ever learned to call would always call. The other rows count twice,
# which costs nothing: equal tokens are computed once.
_WEIGHT_OF_OTHERS = 2
# Of the visits with two calls. What the other call found is told all the same, and the one that failed is not repeated.
_ONE_OF_TWO_FAILS = 0.2
_DIALECTS = ("agentfabric-v06", "agentfabric-v07")


class Kind(StrEnum):
    """What a visit asks of the agent."""

    ONE_CALL = "one_call"
    TWO_CALL = "two_call"
    FOLLOW_UP = "follow_up"
    TOOL_ERROR = "tool_error"
    MISSING = "missing_argument"
    NO_CALL = "no_call"


_WHOLE_MIX = {Kind.ONE_CALL: 0.20, Kind.TWO_CALL: 0.46, Kind.FOLLOW_UP: 0.12, Kind.TOOL_ERROR: 0.22}
_DECISION_MIX = {Kind.ONE_CALL: 0.50, Kind.FOLLOW_UP: 0.07, Kind.TWO_CALL: 0.07, Kind.MISSING: 0.13, Kind.NO_CALL: 0.23}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call with the sentence that asks for it and what came of it."""

    query: str
    call: ToolCall
    surfaces: Mapping[str, str]
    observation: str
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Setting:
    """One agent as one prompt shows it."""

    agent: Agent
    tools: tuple[CatalogueTool, ...]
    aliases: Mapping[str, str]
    instruction: str | Role
    lang: Lang
    dialect: str

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(replace(t.spec(self.lang), name=self.aliases.get(t.name, t.name)) for t in self.tools)


class Synthesizer:
    """Draws episodes of one split of the catalogue."""

    def __init__(self, seed: int, split: Split, catalogue: Catalogue | None = None) -> None:
        self._rng = random.Random(seed)
        self._split = split
        self._catalogue = catalogue or load_catalogue()
        self._decks: dict[tuple[str, ...], list[str]] = {}

    def group(self, agent: Agent, lang: Lang) -> list[Sample]:
        """Return training samples of visits that all share one system message."""
        setting = self._vary(agent, lang)
        whole = [self.episode(setting, kind) for kind in self._kinds(_WHOLE_MIX, _WHOLE_VISITS)]
        decisions = [
            self.episode(setting, kind) for kind in self._kinds(_DECISION_MIX, VISITS_PER_GROUP - _WHOLE_VISITS)
        ]
        dialect = get_dialect(setting.dialect)
        samples = [sample for episode in whole for sample in _weighted(episode, dialect.render(episode))]
        for episode in decisions:
            last = len(episode.turns) - 1
            first = next(sample for sample in dialect.render(episode) if sample.meta["turn"] == last)
            samples += _weighted(episode, [first])
        return samples

    def episodes(self, agent: Agent, lang: Lang, count: int) -> list[Episode]:
        """Return training episodes that all share one system message."""
        setting = self._vary(agent, lang)
        return [self.episode(setting, kind) for kind in self._kinds(_WHOLE_MIX | _DECISION_MIX, count)]

    def _kinds(self, mix: Mapping[Kind, float], count: int) -> list[Kind]:
        return self._rng.choices(list(mix), weights=list(mix.values()), k=count)

    def episode(self, setting: _Setting, kind: Kind, tool: CatalogueTool | None = None) -> Episode:
        """Return one episode of a kind; its last turn is the visit, earlier ones are history."""
        tool = tool or self._rng.choice(setting.tools)
        make: Callable[[_Setting, CatalogueTool], tuple[list[Turn], tuple[str, ...]]] = {
            Kind.ONE_CALL: self._one_call,
            Kind.TWO_CALL: self._two_call,
            Kind.FOLLOW_UP: self._follow_up,
            Kind.TOOL_ERROR: self._tool_error,
            Kind.MISSING: self._missing,
            Kind.NO_CALL: self._no_call,
        }[kind]
        turns, facts = make(setting, tool)
        meta = {"kind": kind, "agent": setting.agent.key, "lang": setting.lang, "dialect": setting.dialect}
        return Episode(
            setting.specs, tuple(turns), setting.instruction, setting.lang, meta={**meta, "facts": list(facts)}
        )

    def setting(self, agent: Agent, lang: Lang, dialect: str) -> _Setting:
        """Return the agent as its author wrote it."""
        return _Setting(agent, agent.tools, {}, self._instruction(agent, lang), lang, dialect)

    def _vary(self, agent: Agent, lang: Lang) -> _Setting:
        rng = self._rng
        tools = rng.sample(agent.tools, k=min(len(agent.tools), rng.choice((2, 3, 3, 4, 4, 5))))
        if rng.random() < 0.2:
            others = [tool for other in self._catalogue.known(Breadth.ALL) for tool in other.tools]
            names = {tool.name for tool in tools}
            strangers = [tool for tool in rng.sample(others, k=2) if tool.name not in names]
            tools = [*tools, *strangers][-5:]
        rng.shuffle(tools)
        aliases = {tool.name: _alias(tool.name, rng) for tool in tools if rng.random() < 0.15}
        return _Setting(agent, tuple(tools), aliases, self._instruction(agent, lang), lang, rng.choice(_DIALECTS))

    def _instruction(self, agent: Agent, lang: Lang) -> str | Role:
        if self._rng.random() < 0.5:
            return self._rng.choice(agent.role[lang])
        functions: str | list[str] = list(agent.functions[lang])
        if self._rng.random() < 0.5:
            functions = ("；" if lang is Lang.ZH else "; ").join(functions)
        return Role(name=agent.name[lang], description=agent.description[lang], instruction=functions)

    # --- kinds -------------------------------------------------------------------------------

    def _one_call(self, setting: _Setting, tool: CatalogueTool) -> tuple[list[Turn], tuple[str, ...]]:
        asked = self._ask(setting, tool, self._sentence(tool, setting.lang))
        return [_turn(asked, setting.lang)], asked.facts

    def _two_call(self, setting: _Setting, tool: CatalogueTool) -> tuple[list[Turn], tuple[str, ...]]:
        others = [other for other in setting.tools if other is not tool] or [tool]
        tools = (tool, self._rng.choice(others))
        first, second = (self._ask(setting, t, self._rng.choice(t.phrases["clauses"][setting.lang])) for t in tools)
        if first.call == second.call:
            return self._one_call(setting, tool)
        joins = self._pieces("heldout_joins" if self._split is Split.TEST else "joins", setting.lang)
        query = fill(self._rng.choice(joins), {"a": first.query, "b": second.query})
        steps: tuple[Step, ...] = tuple(Step(asked.call, asked.observation) for asked in (first, second))
        facts, answer = [first.facts, second.facts], retell(steps, setting.lang)
        if self._split is Split.TRAIN and self._rng.random() < _ONE_OF_TWO_FAILS:
            failing = self._rng.randrange(2)
            observation, detail = self._error(setting, steps[failing].call)
            answer = retell(steps, setting.lang, {failing: detail})
            steps = tuple(replace(s, observation=observation) if n == failing else s for n, s in enumerate(steps))
            facts[failing] = ()
        return [Turn(self._finish(query, setting.lang), steps, answer)], (*facts[0], *facts[1])

    def _follow_up(self, setting: _Setting, tool: CatalogueTool) -> tuple[list[Turn], tuple[str, ...]]:
        first = self._ask(setting, tool, self._sentence(tool, setting.lang, optional=False))
        phrases = tool.phrases["followups"][setting.lang]
        phrase = phrases[-1] if self._split is Split.TEST else self._rng.choice(phrases[:-1])
        (changed,) = placeholders(phrase)
        for _ in range(8):
            second = self._ask(setting, tool, phrase, keep=first)
            if second.call.arguments.get(changed) != first.call.arguments.get(changed):
                break
        return [_turn(first, setting.lang), _turn(second, setting.lang)], second.facts

    def _tool_error(self, setting: _Setting, tool: CatalogueTool) -> tuple[list[Turn], tuple[str, ...]]:
        asked = self._ask(setting, tool, self._sentence(tool, setting.lang))
        observation, detail = self._error(setting, asked.call)
        return [Turn(asked.query, (Step(asked.call, observation),), apologise(detail, setting.lang))], ()

    def _error(self, setting: _Setting, call: ToolCall) -> tuple[str, str]:
        """Return what a call that failed shows, in the app's frame or bare, and the reason in it."""
        detail = self._rng.choice(self._pieces("error_details", setting.lang, tail=TEST_PAIRS))
        framed = get_dialect(setting.dialect).error_observation(call, detail)
        return framed if self._rng.random() < 0.6 else detail, detail

    def _missing(self, setting: _Setting, tool: CatalogueTool) -> tuple[list[Turn], tuple[str, ...]]:
        phrases = tool.phrases["missing"][setting.lang]
        phrase = phrases[-1] if self._split is Split.TEST else self._rng.choice(phrases[:-1])
        drawn = self._draw(tool, placeholders(phrase), setting.lang)
        parameter = tool.parameter(tool.missing)
        question = fill(phrase, {name: value.surface for name, value in drawn.items()})
        ask = Turn(question, (), parameter.ask[setting.lang])
        if self._split is Split.TEST or self._rng.random() < 0.5:
            return [ask], ()
        # The user supplies what was asked for: the call takes both turns together.
        value = self._draw(tool, {parameter.name}, setting.lang)
        asked = self._ask(setting, tool, f"{{{parameter.name}}}", given={**drawn, **value})
        return [ask, _turn(asked, setting.lang)], asked.facts

    def _no_call(self, setting: _Setting, tool: CatalogueTool) -> tuple[list[Turn], tuple[str, ...]]:
        lang = setting.lang
        kinds = ["greetings", "thanks", "chat", "chat"]
        values: dict[str, str] = {}
        if not isinstance(setting.instruction, str):
            kinds += ["identity", "capability"]
            functions = setting.agent.functions[lang]
            glue = "；" if lang is Lang.ZH else "; "
            values = {"name": setting.agent.name[lang], "functions": glue.join(functions)}
        kind = self._rng.choice(kinds)
        pair = self._rng.choice(self._catalogue.talk(kind, lang, self._split, known=set(values)))
        turn = Turn(pair["q"], (), fill(pair["a"], values))
        facts = (values["name"],) if kind == "identity" else ()
        history = [_turn(self._ask(setting, tool, self._sentence(tool, lang)), lang)] if kind == "thanks" else []
        return [*history, turn], facts

    # --- pieces ------------------------------------------------------------------------------

    def _deal(self, key: tuple[str, ...], items: Sequence[str]) -> str:
        """Choose an item; each comes once before any comes again, so that few draws cover them all."""
        if not self._decks.get(key):
            self._decks[key] = self._rng.sample(items, k=len(items))
        return self._decks[key].pop()

    def _sentence(self, tool: CatalogueTool, lang: Lang, *, optional: bool = True) -> str:
        """Return a request template, wrapped the way people wrap requests."""
        rng, test, key = self._rng, self._split is Split.TEST, (tool.name, lang, str(optional))
        required = {parameter.name for parameter in tool.parameters if parameter.required}

        def usable(kind: str) -> list[str]:
            return [p for p in tool.phrases[kind][lang] if optional or placeholders(p) == required]

        whole = usable("heldout" if test else "questions")
        clauses = usable("clauses")
        if not clauses or (whole and rng.random() < (0.7 if test else 0.6)):
            sentence = self._deal((*key, "whole"), whole)
            opening = rng.choice(self._pieces("sentence_before", lang)) if not test and rng.random() < 0.15 else ""
            return opening + sentence
        clause = self._deal((*key, "clauses"), clauses)
        before = self._pieces("heldout_before" if test else "polite_before", lang)
        after = self._pieces("heldout_after" if test else "polite_after", lang)
        draw = rng.random()
        if draw < (0.5 if test else 0.35):
            if not ("帮" in clause[:2] or clause.startswith("help")):
                clause = rng.choice(before) + clause
        elif draw < (1.0 if test else 0.6):
            clause += rng.choice(after)
        return self._finish(clause, lang)

    def _finish(self, sentence: str, lang: Lang) -> str:
        """Give an imperative its capital and final punctuation, or leave it bare."""
        rng = self._rng
        if lang is Lang.EN and rng.random() < 0.6:
            sentence = sentence[:1].upper() + sentence[1:]
        if sentence[-1:] in "?？!！.。":
            return sentence
        ends = ("", "", "。", "！") if lang is Lang.ZH else ("", "", ".", "!")
        return sentence + rng.choice(ends)

    def _ask(
        self,
        setting: _Setting,
        tool: CatalogueTool,
        phrase: str,
        *,
        keep: _Asked | None = None,
        given: Mapping[str, Drawn] | None = None,
    ) -> _Asked:
        """Fill a request and make its call and observation; `keep` carries over earlier arguments."""
        lang, rng = setting.lang, self._rng
        drawn = dict(given) if given is not None else self._draw(tool, placeholders(phrase), lang)
        surfaces = {**(keep.surfaces if keep else {}), **{name: value.surface for name, value in drawn.items()}}
        named = {**(keep.call.arguments if keep else {}), **{name: value.value for name, value in drawn.items()}}
        arguments = {p.name: named[p.name] for p in tool.parameters if p.name in named}
        found = {name: slot.draw(rng, lang, self._split).surface for name, slot in tool.results.items()}
        values = {**surfaces, **found}
        shown = tool.phrases["observation"][lang]
        observation = fill(rng.choice([t for t in shown if placeholders(t) <= values.keys()] or shown), values)
        call = ToolCall(setting.aliases.get(tool.name, tool.name), arguments)
        return _Asked(fill(phrase, values), call, surfaces, observation, tuple(found.values()))

    def _draw(self, tool: CatalogueTool, names: set[str], lang: Lang) -> dict[str, Drawn]:
        """Draw the named parameters; two of one pool (origin, destination) get different values."""
        drawn: dict[str, Drawn] = {}
        for parameter in tool.parameters:
            if parameter.name not in names:
                continue
            for _ in range(20):
                value = parameter.slot.draw(self._rng, lang, self._split)
                if value.value not in [other.value for other in drawn.values()]:
                    break
            drawn[parameter.name] = value
        return drawn

    def _pieces(self, name: str, lang: Lang, tail: int = 0) -> Sequence[Any]:
        pieces = self._catalogue.conversation[name][lang]
        return self._split.part(pieces, tail) if tail else pieces


def _weighted(episode: Episode, samples: Sequence[Sample]) -> Iterator[Sample]:
    """Yield the samples of an episode, those that are not the first call of a turn several times."""
    begun: set[int] = set()
    for sample in samples:
        turn = sample.meta["turn"]
        first_call = bool(episode.turns[turn].steps) and turn not in begun
        begun.add(turn)
        yield from repeat(sample, 1 if first_call else _WEIGHT_OF_OTHERS)


def _turn(asked: _Asked, lang: Lang) -> Turn:
    steps = (Step(asked.call, asked.observation),)
    return Turn(asked.query, steps, retell(steps, lang))


def _alias(name: str, rng: random.Random) -> str:
    """Rename a tool, so that the name must be read from the prompt."""
    words = name.split("_")
    camel = words[0] + "".join(word.title() for word in words[1:])
    return rng.choice(
        (camel, f"get_{name}", f"{name}_v2", f"{name}_api", f"my_{name}", "_".join(reversed(words)), f"{camel}Tool")
    )


def training_groups(visits: int, seed: int = 0, breadth: Breadth = Breadth.CORE) -> Iterator[list[Sample]]:
    """Yield groups of samples, about `visits` visits in all, each group sharing one system message.

    Agents and languages take turns, so every stretch of the stream covers all of them. Groups of the other agents
    show no tool of a core one, so that what is learned from them has yet to see those.
    """
    catalogue = load_catalogue()
    agents = catalogue.known(breadth)
    if breadth is Breadth.OTHERS:
        catalogue = replace(catalogue, agents=tuple(agents))
    synthesizer = Synthesizer(seed, Split.TRAIN, catalogue)
    rng = random.Random(seed + 1)
    rounds: list[tuple[Agent, Lang]] = []
    for _ in range(max(1, round(visits / VISITS_PER_GROUP))):
        if not rounds:
            rounds = [(agent, lang) for agent in agents for lang in Lang]
            rng.shuffle(rounds)
        yield synthesizer.group(*rounds.pop())


def selection_episodes(count: int, seed: int = 1_000_003) -> list[Episode]:
    """Return episodes to choose among checkpoints: training phrases and values, drawn with a seed of their own.

    They share nothing with `held_out_episodes`, so that what is chosen by them can be judged by those.
    """
    synthesizer = Synthesizer(seed, Split.TRAIN)
    pairs = [(agent, lang) for agent in load_catalogue().known(Breadth.CORE) for lang in Lang]
    random.Random(seed).shuffle(pairs)
    episodes = [synthesizer.episodes(*pair, 1)[0] for pair in islice(cycle(pairs), count)]
    return [replace(episode, meta={**episode.meta, "held_out_agent": False}) for episode in episodes]


def held_out_episodes(seed: int = 7, breadth: Breadth = Breadth.CORE) -> list[Episode]:
    """Return the fixed held-out episodes: test phrases and values, and two agents never trained on."""
    synthesizer = Synthesizer(seed, Split.TEST)
    counts = {Kind.TWO_CALL: 14, Kind.FOLLOW_UP: 14, Kind.TOOL_ERROR: 14, Kind.MISSING: 10, Kind.NO_CALL: 24}
    episodes: list[Episode] = []
    catalogue = load_catalogue()
    agents = [*catalogue.known(breadth), *(agent for agent in catalogue.agents if agent.held_out)]
    for lang in Lang:
        # One prompt an agent and language: as in an app, its visits share their prefix.
        settings = [
            synthesizer.setting(agent, lang, _DIALECTS[(number + (lang is Lang.EN)) % 2])
            for number, agent in enumerate(agents)
        ]
        for setting in settings:
            for tool in setting.tools:
                for _ in range(3 if setting.agent.held_out else 2):
                    episode = synthesizer.episode(setting, Kind.ONE_CALL, tool)
                    episode.meta["held_out_agent"] = setting.agent.held_out
                    episodes.append(episode)
        known = [setting for setting in settings if not setting.agent.held_out]
        for kind, count in counts.items():
            episodes += [synthesizer.episode(known[number % len(known)], kind) for number in range(count)]
    return episodes
