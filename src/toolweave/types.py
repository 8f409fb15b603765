"""The vocabulary of toolweave: tools, calls, episodes and samples. Imports nothing of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NotRequired, Required, TypedDict

Json = dict[str, Any]
_ENCODER = json.JSONEncoder(ensure_ascii=False)


class Message(TypedDict):
    """One chat message as it goes over the wire; the two last fields belong to native tool calls only."""

    role: str
    content: str
    tool_calls: NotRequired[list[Json]]
    tool_call_id: NotRequired[str]


RAW_ROLE = "prompt"
"""Role of the one message of a request to `/v1/completions`: its text is the whole prompt, without chat template."""


def read_message(message: Mapping[str, Any]) -> Message:
    """Return a message without the fields that are none of ours. Raises KeyError without role or content."""
    read = Message(role=str(message["role"]), content=str(message["content"] or ""))
    if message.get("tool_calls"):
        read["tool_calls"] = list(message["tool_calls"])
    if message.get("tool_call_id"):
        read["tool_call_id"] = str(message["tool_call_id"])
    return read


class Lang(StrEnum):
    """Language of the prompt frame (not necessarily of the user)."""

    ZH = "zh"
    EN = "en"


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model sees it: `parameters` is a JSON Schema of type object."""

    name: str
    description: str
    parameters: Json

    def openai(self) -> Json:
        """Return the OpenAI function schema."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def openai_json(self) -> str:
        """Return the OpenAI function schema as JSON text with Chinese left readable."""
        return _ENCODER.encode(self.openai())

    @classmethod
    def from_openai(cls, schema: Mapping[str, Any]) -> ToolSpec:
        """Read an OpenAI function schema, with or without its `{"type": "function"}` wrapper."""
        function = schema.get("function", schema)
        parameters = function.get("parameters") or {"type": "object", "properties": {}, "required": []}
        return cls(function["name"], function.get("description") or "", parameters)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A well-formed call. `raw` is the argument text the model wrote, if a model wrote it; `id` a native call's."""

    name: str
    arguments: Json
    raw: str = field(default="", compare=False)
    id: str = field(default="", compare=False)

    def arguments_json(self) -> str:
        """Return the arguments as JSON text with Chinese left readable."""
        return _ENCODER.encode(self.arguments)


@dataclass(frozen=True, slots=True)
class InvalidToolCall:
    """A call that could not be read: a value, never an exception.

    `name` is what stood after `Action:`, `raw` the argument text, `reason` says what is wrong.
    """

    name: str
    raw: str
    reason: str
    id: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """A model reply taken apart: what it says to the user and what it calls."""

    text: str
    calls: tuple[ToolCall | InvalidToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One call and what the tool returned; `together`: made in the same reply as the step before."""

    call: ToolCall
    observation: str
    together: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One user turn: the query, the calls it took, the answer."""

    query: str
    steps: tuple[Step, ...]
    answer: str
    files: tuple[str, ...] = ()


class Role(TypedDict, total=False):
    """AgentFabric's structured instruction; everything but `name` may be missing."""

    name: Required[str]
    description: str
    instruction: str | list[str]


@dataclass(frozen=True, slots=True)
class Episode:
    """The structured truth of a conversation; a dialect renders it to samples.

    `instruction` is a free-form role prompt or AgentFabric's `{name, description, instruction}`.
    """

    tools: tuple[ToolSpec, ...]
    turns: tuple[Turn, ...]
    instruction: str | Role = ""
    lang: Lang = Lang.ZH
    knowledge: str = ""
    meta: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """A training row: a request exactly as an app sends it, and the reply it should have got."""

    messages: tuple[Message, ...]
    completion: str
    stop: tuple[str, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    meta: Json = field(default_factory=dict)

    @property
    def raw_prompt(self) -> str | None:
        """The prompt of a request to `/v1/completions`; None for a chat."""
        first = self.messages[0] if self.messages else None
        return first["content"] if first is not None and first["role"] == RAW_ROLE else None

    def to_json(self, tools: str | None = None) -> Json:
        """Return the JSONL form; tools are one JSON string so that Arrow adds no foreign nulls.

        `tools` is that string, where many samples share it.
        """
        if tools is None:
            tools = f"[{', '.join(tool.openai_json() for tool in self.tools)}]"
        return {
            "messages": list(self.messages),
            "stop": list(self.stop),
            "completion": self.completion,
            "tools": tools,
            "meta": self.meta,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Sample:
        """Read the JSONL form. Raises KeyError, TypeError or ValueError on a malformed row."""
        messages = tuple(map(read_message, row["messages"]))
        if not messages:
            raise ValueError("a sample needs at least one message")
        tools = tuple(ToolSpec.from_openai(tool) for tool in json.loads(row.get("tools") or "[]"))
        completion = row["completion"]
        if not isinstance(completion, str):
            raise TypeError("completion must be a string")
        return cls(messages, completion, tuple(row.get("stop") or ()), tools, dict(row.get("meta") or {}))
