"""The embedded catalogue: agents, tools and phrasings in Chinese and English, authored by hand.

`catalogue/*.yaml` holds one agent a file; `values.yaml`, `conversation.yaml`, `chat.yaml` and
`self_cognition.yaml` hold what they share. Phrases and values are split once and for all into a
training and a test part, so that no held-out visit can be built from anything trained on;
`training_values.yaml` adds to the pools of `values.yaml` what is only trained on.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import resources
from typing import Any

import yaml

from toolweave.errors import DataError
from toolweave.types import Json, Lang, ToolSpec

PLACEHOLDER = re.compile(r"\{(\w+)\}")
# So many pairs at the end of each language of chat.yaml are only ever used to test.
TEST_CHATS = 30
# And at the end of each list of conversation.yaml.
TEST_PAIRS = 5
# Characters of a chat's answer in training. Its wording cannot be foretold, so that long ones drown in their noise what
# there is to learn: in a trial, 13 % of the labels made 64 % of the loss.
_LONGEST_CHAT = {Lang.ZH: 20, Lang.EN: 55}
_SHARED = ("values", "training_values", "conversation", "chat", "self_cognition")
# Below this size a list of values is a closed set (units, rooms of a house): test on the same ones.
_SMALLEST_SPLIT_POOL = 16


class Split(Enum):
    """Which part of the catalogue to draw from."""

    TRAIN = "train"
    TEST = "test"

    def part(self, items: Sequence[Any], tail: int) -> Sequence[Any]:
        """Return this part of items, of which the last `tail` are only for testing."""
        return items[-tail:] if self is Split.TEST else items[:-tail]


class Breadth(Enum):
    """Which agents to train on: the core ones, that a small model learns in minutes, the others, or all."""

    CORE = "core"
    OTHERS = "others"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A slot's value: as the user says it and as the argument takes it."""

    surface: str
    value: Any


@dataclass(frozen=True, slots=True)
class Slot:
    """Where values of a parameter or result come from (see `values` in the catalogue files).

    `more` are values by language that only training draws from.
    """

    source: Mapping[str, Any]
    more: Mapping[str, Sequence[str]]

    def draw(self, rng: random.Random, lang: Lang, split: Split) -> Drawn:
        """Draw one value."""
        if "range" in self.source:
            low, high = self.source["range"]
            step = self.source.get("step")
            if step is None:
                number: int | float = rng.randint(low, high)
            else:
                number = round(low + step * rng.randint(0, round((high - low) / step)), 6)
            return Drawn(str(number), number)
        if "pattern" in self.source:
            text = "".join(_pattern_char(char, rng) for char in self.source["pattern"])
            return Drawn(text, text)
        values = self.source[lang]
        if isinstance(values, Mapping):
            surface = rng.choice(list(values))
            return Drawn(str(surface), values[surface])
        text = rng.choice(self.listed(lang, split))
        # An article before a name is the sentence's: who asks about "the ferry" means the ferry.
        return Drawn(text, text.removeprefix("the ") if self.source.get("names") else text)

    def listed(self, lang: Lang, split: Split) -> Sequence[str]:
        """Return the values of a split, of a slot that lists them."""
        part = _part(tuple(map(str, self.source[lang])), split)
        return (*part, *self.more.get(lang, ())) if split is Split.TRAIN else part


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a tool; `ask` is how the assistant asks for it, by language."""

    name: str
    type: str
    required: bool
    description: Mapping[str, str]
    slot: Slot
    enum: tuple[Any, ...]
    ask: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CatalogueTool:
    """A tool, what it returns, and all the ways of asking for it."""

    name: str
    description: Mapping[str, str]
    parameters: tuple[Parameter, ...]
    results: Mapping[str, Slot]
    phrases: Mapping[str, Mapping[str, Sequence[str]]]
    missing: str

    def spec(self, lang: Lang) -> ToolSpec:
        """Return the schema the model sees."""
        properties: Json = {}
        for parameter in self.parameters:
            properties[parameter.name] = {"type": parameter.type, "description": parameter.description[lang]}
            if parameter.enum:
                properties[parameter.name]["enum"] = list(parameter.enum)
        required = [parameter.name for parameter in self.parameters if parameter.required]
        schema = {"type": "object", "properties": properties, "required": required}
        return ToolSpec(self.name, self.description[lang], schema)

    def parameter(self, name: str) -> Parameter:
        """Return a parameter by name."""
        return next(parameter for parameter in self.parameters if parameter.name == name)


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent of the catalogue. `held_out` agents are only ever tested on; `core` ones are learned in minutes."""

    key: str
    name: Mapping[str, str]
    description: Mapping[str, str]
    functions: Mapping[str, Sequence[str]]
    role: Mapping[str, Sequence[str]]
    tools: tuple[CatalogueTool, ...]
    core: bool
    held_out: bool


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All agents and the shared conversation pieces, by language."""

    agents: tuple[Agent, ...]
    conversation: Mapping[str, Mapping[str, Any]]
    chat: Mapping[str, Sequence[Mapping[str, str]]]
    self_cognition: Mapping[str, Sequence[Mapping[str, str]]]

    def known(self, breadth: Breadth) -> list[Agent]:
        """Return the agents to train on."""
        learned = [agent for agent in self.agents if not agent.held_out]
        return [agent for agent in learned if breadth is Breadth.ALL or agent.core is (breadth is Breadth.CORE)]

    def talk(self, kind: str, lang: Lang, split: Split, known: Set[str] = frozenset()) -> list[Mapping[str, str]]:
        """Return what is said that no tool is for, as `q` and `a`: `kind` is "chat" or a list in conversation.yaml.

        `known` are the placeholders that an answer may have.
        """
        if kind == "chat":
            pairs = split.part(self.chat[lang], TEST_CHATS)
            return [pair for pair in pairs if split is Split.TEST or len(pair["a"]) <= _LONGEST_CHAT[lang]]
        pairs = split.part(self.conversation[kind][lang], TEST_PAIRS)
        return [pair for pair in pairs if placeholders(pair["a"]) <= known]


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace `{name}` placeholders; other braces, as in JSON, stay."""
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def placeholders(template: str) -> set[str]:
    """Return the names of the placeholders of a template."""
    return set(PLACEHOLDER.findall(template))


@cache
def load_catalogue() -> Catalogue:
    """Read and check the embedded catalogue. Raises DataError on an inconsistent file."""
    folder = resources.files("toolweave.data") / "catalogue"
    files = {path.name.removesuffix(".yaml"): path for path in folder.iterdir() if path.name.endswith(".yaml")}
    raw = {name: yaml.load(files[name].read_text("utf-8"), yaml.CSafeLoader) for name in sorted(files)}
    if unknown := raw["training_values"].keys() - raw["values"].keys():
        raise DataError(f"training_values.yaml: no such pools in values.yaml: {', '.join(sorted(unknown))}")
    pools = {name: Slot(source, raw["training_values"].get(name, {})) for name, source in raw["values"].items()}
    agents = tuple(_agent(name, content, pools) for name, content in raw.items() if name not in _SHARED)
    return Catalogue(agents, raw["conversation"], raw["chat"], raw["self_cognition"])


def _agent(file: str, content: Mapping[str, Any], pools: Mapping[str, Slot]) -> Agent:
    agent = content["agent"]
    tools = tuple(_tool(file, tool, pools) for tool in content["tools"])
    core, held_out = bool(content.get("core_agent")), bool(content.get("heldout_agent"))
    functions: dict[str, list[str]] = {
        lang: [text.rstrip("。.") for text in agent["instruction"][lang]] for lang in Lang
    }
    return Agent(agent["key"], agent["name"], agent["description"], functions, agent["role"], tools, core, held_out)


def _tool(file: str, tool: Mapping[str, Any], pools: Mapping[str, Slot]) -> CatalogueTool:
    parameters = tuple(
        Parameter(
            name=parameter["name"],
            type=parameter["type"],
            required=bool(parameter.get("required")),
            description=parameter["description"],
            slot=_slot(parameter["values"], pools),
            enum=tuple(parameter.get("enum") or ()),
            ask=parameter.get("ask") or {},
        )
        for parameter in tool["parameters"]
    )
    kinds = ("observation", "clauses", "questions", "heldout", "followups", "missing")
    phrases: dict[str, dict[str, list[str]]] = {kind: {lang: tool[kind][lang] for lang in Lang} for kind in kinds}
    results = {name: _slot(source, pools) for name, source in tool["results"].items()}
    made = CatalogueTool(tool["name"], tool["description"], parameters, results, phrases, tool["missing"]["parameter"])
    _check(file, made)
    return made


def _slot(source: str | Mapping[str, Any], pools: Mapping[str, Slot]) -> Slot:
    return pools[source] if isinstance(source, str) else Slot(source, {})


def _check(file: str, tool: CatalogueTool) -> None:
    required = {parameter.name for parameter in tool.parameters if parameter.required}
    known = {parameter.name for parameter in tool.parameters} | set(tool.results)
    must_have = {
        "clauses": required,
        "questions": required,
        "heldout": required,
        "missing": required - {tool.missing},
        "observation": set(tool.results),
    }
    for kind, by_lang in tool.phrases.items():
        for phrase in (phrase for phrases in by_lang.values() for phrase in phrases):
            names = placeholders(phrase)
            if names - known:
                raise DataError(f"{file}.yaml: {tool.name}: {kind}: unknown placeholder in {phrase!r}")
            if must_have.get(kind, set()) - names:
                raise DataError(f"{file}.yaml: {tool.name}: {kind}: placeholder missing in {phrase!r}")
    for lang in Lang:
        trained = {*tool.phrases["clauses"][lang], *tool.phrases["questions"][lang]}
        if both := trained & set(tool.phrases["heldout"][lang]):
            raise DataError(f"{file}.yaml: {tool.name}: trained and held out: {both}")


@cache
def _part(values: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """Return the training or the test fifth of a pool, by a hash of the value."""
    if len(values) < _SMALLEST_SPLIT_POOL:
        return values
    return tuple(value for value in values if (_hash(value) % 5 == 0) == (split is Split.TEST)) or values


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _pattern_char(char: str, rng: random.Random) -> str:
    if char == "#":
        return rng.choice("0123456789")
    return rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") if char == "?" else char
