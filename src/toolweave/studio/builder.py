"""Building an agent by talking, to a model in AgentFabric's `Answer/Config/RichConfig` protocol or to a guide."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from toolweave.agents.memory import load_history, save_history
from toolweave.agents.spec import AgentSpec
from toolweave.models.client import ModelClient
from toolweave.studio.avatar import give_avatar
from toolweave.studio.defaults import default_tools
from toolweave.studio.text import say
from toolweave.studio.workspace import Home
from toolweave.types import Json, Lang, Message

GUIDE = ""
"""In place of a model: the rule-based guide."""

_DECODER = json.JSONDecoder()
_MARKS = ("RichConfig:", "Config:")
# What in a description calls for which tool.
_WORDS = {
    "amap_weather": ("天气", "气温", "weather", "forecast"),
    "image_gen": ("画", "图", "绘", "draw", "paint", "picture", "image"),
    "code_interpreter": ("代码", "数据", "计算", "code", "data", "python", "chart"),
    "web_search": ("搜索", "新闻", "search", "news"),
}


@dataclass(frozen=True, slots=True)
class Built:
    """What the builder says so far; `config` are the fields of `builder_config` it changed, once it is done."""

    answer: str
    config: Json | None = None


def parse(reply: str) -> Built:
    """Take a builder's reply apart. A configuration that is no JSON object is left out, never an error."""
    config = next((found for mark in _MARKS if (found := _object(reply, mark)) is not None), None)
    return Built(shown(reply), config)


def shown(reply: str) -> str:
    """Return the part of a reply, or of its beginning, that is for the user."""
    text = reply.split("Answer:", 1)[-1]
    # Of a mark that is still being written, nothing is shown.
    cuts = [at for mark in _MARKS if (at := text.find(mark)) >= 0]
    tails = [len(text) - size for mark in _MARKS for size in range(1, len(mark)) if text.endswith("\n" + mark[:size])]
    return text[: min([*cuts, *tails, len(text)])].strip()


def _object(reply: str, mark: str) -> Json | None:
    at = reply.find(mark)
    start = reply.find("{", at)
    if at < 0 or start < 0:
        return None
    try:
        found, _ = _DECODER.raw_decode(reply, start)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def configured(spec: AgentSpec, config: Json, lang: Lang) -> AgentSpec:
    """Return the agent with the fields of a `Config`; fields that it lacks or that are empty stay as they are."""
    changed: Json = {}
    for field in ("name", "description"):
        if isinstance(config.get(field), str) and config[field].strip():
            changed[field] = config[field].strip()
    given = config.get("instructions") or config.get("instruction")
    if given:
        joint = "；" if lang is Lang.ZH else "; "
        changed["instruction"] = joint.join(map(str, given)) if isinstance(given, list) else str(given)
    if isinstance(config.get("prompt_recommend"), list) and config["prompt_recommend"]:
        changed["prompt_recommend"] = [str(text) for text in config["prompt_recommend"]]
    if isinstance(config.get("tools"), list):
        known = default_tools(lang)
        own = spec.builder.get("tools") or {}
        changed["tools"] = own | {name: known[name] | {"use": True} for name in config["tools"] if name in known}
    return replace(spec, builder=spec.builder | changed)


class Builder:
    """The talk about one agent; it is kept in a file, in AgentFabric's shape."""

    def __init__(self, home: Home, agent: str, lang: Lang) -> None:
        self._home = home
        self._agent = agent
        self._lang = lang
        self._path: Path = home.agent_folder(agent) / "builder_history.json"

    @property
    def history(self) -> tuple[Message, ...]:
        """What was said so far."""
        return load_history(self._path)

    def forget(self) -> None:
        """Begin anew; the agent stays as it is."""
        self._path.unlink(missing_ok=True)

    def chat(self, query: str, model: str = GUIDE) -> Iterator[Built]:
        """Yield the answer as it grows; the last one comes with what was changed, and is saved.

        `model` is one of the user's. Raises ToolweaveError where it cannot be asked.
        """
        history = self.history
        if model == GUIDE:
            built = self._guide([*_said(history), query])
        else:
            reply = ""
            client = ModelClient(self._home.llm(model))
            for delta in client.complete([self._system(), *history, Message(role="user", content=query)], ()):
                reply += delta
                yield Built(shown(reply))
            built = parse(reply)
        if built.config:
            spec = self._home.agent(self._agent, self._lang)
            self._home.save_agent(self._agent, configured(spec, built.config, self._lang))
            if {"name", "logo_prompt"} & built.config.keys():
                yield Built(built.answer)  # painting takes a while
                give_avatar(self._home, self._agent, self._face(built.config))
        turn = [Message(role="user", content=query), Message(role="assistant", content=built.answer)]
        save_history(self._path, [*history, *turn])
        yield built

    def _system(self) -> Message:
        spec = self._home.agent(self._agent, self._lang)
        fields = ("name", "description", "instruction", "prompt_recommend")
        now = json.dumps({field: spec.builder.get(field) for field in fields}, ensure_ascii=False)
        return Message(role="system", content=say("create.system", self._lang) + now)

    def _face(self, config: Json) -> str:
        """Return what the agent's picture shows: what the model wrote, or else what the agent is."""
        spec = self._home.agent(self._agent, self._lang)
        return str(config.get("logo_prompt") or f"{spec.name}: {spec.description}")

    def _guide(self, said: Sequence[str]) -> Built:
        """Ask for one field after the other: what was said first is the description, and so on."""
        step = _Step.at(len(said) - 1)
        config = step.read(said[-1], self._lang)
        return Built(say(f"create.guide_{step.next().value}", self._lang), config)


class _Step(StrEnum):
    """What the guide asks for, in this order."""

    DESCRIPTION = "description"
    NAME = "name"
    INSTRUCTIONS = "instructions"
    PROMPT_RECOMMEND = "prompt_recommend"
    DONE = "done"

    @classmethod
    def at(cls, number: int) -> _Step:
        steps = list(cls)
        return steps[min(number, len(steps) - 1)]

    def next(self) -> _Step:
        steps = list(_Step)
        return steps[min(steps.index(self) + 1, len(steps) - 1)]

    def read(self, said: str, lang: Lang) -> Json:
        """Return what an answer to this question sets."""
        lines = [line.strip() for line in said.replace("；", "\n").splitlines() if line.strip()]
        match self:
            case _Step.DESCRIPTION:
                wanted = said.lower()
                tools = [name for name, words in _WORDS.items() if any(word in wanted for word in words)]
                return {"description": said.strip(), "tools": tools}
            case _Step.NAME:
                return {"name": said.strip()[:100]}
            case _:
                # After the last question, more of what it should do is taken as more instructions.
                return {"instructions" if self is not _Step.PROMPT_RECOMMEND else self.value: lines}


def _said(history: Sequence[Message]) -> list[str]:
    return [message["content"] for message in history if message["role"] == "user"]
