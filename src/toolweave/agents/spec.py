"""An agent as AgentFabric keeps it: four JSON files in a folder.

Files are read as they are and kept as they are: what toolweave does not know stays where it was when they are saved.
An agent's files may come from somebody else. They choose tools, and say how these behave, but not where keys go, what
folder is written or what program is started (`BaseTool.operator_keys`).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from toolweave.agents.role_play import RolePlay
from toolweave.data.json_files import read_json, write_json
from toolweave.errors import DataError, ToolweaveError
from toolweave.models.interface import Model
from toolweave.tools.base import BaseTool
from toolweave.tools.openapi import plugin_tools
from toolweave.tools.registry import TOOL_REGISTRY, make_tool
from toolweave.types import Json, Lang

LOCAL_USER = "local_user"
# What a tool's entry says to the user interface; the rest configures the tool.
_UI_KEYS = frozenset({"name", "is_active", "use", "is_remote_tool"})
# Models that their server no longer answers to (https://help.aliyun.com/zh/model-studio, retired models).
_RETIRED = re.compile(r"qwen-max-(1201|longcontext)|qwen1?(\.5)?-\d+b-chat", re.IGNORECASE)
_PATH_PART = re.compile(r"[\w.-]+")


class FileKind(StrEnum):
    """The four files; the value is the file's name without `.json`."""

    BUILDER = "builder_config"
    MODELS = "model_config"
    TOOLS = "tool_config"
    PLUGIN = "openapi_plugin_config"

    @property
    def file_name(self) -> str:
        """The file's name."""
        return f"{self.value}.json"

    @property
    def variable(self) -> str:
        """The environment variable that names another file in place of the installation's."""
        return f"{self.value.upper()}_FILE"


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """A tool as the builder shows it: `key` is its registered name, `name` the label."""

    key: str
    name: str
    is_active: bool
    use: bool
    cfg: Json

    @classmethod
    def read(cls, key: str, entry: Mapping[str, Any]) -> ToolEntry:
        """Read an entry of `tool_config` or of the builder's `tools`; AgentFabric takes absent flags for false."""
        cfg = {name: value for name, value in entry.items() if name not in _UI_KEYS}
        active, use = bool(entry.get("is_active")), bool(entry.get("use"))
        return cls(key, str(entry.get("name") or key), active, use, cfg)


@dataclass(frozen=True)
class AgentSpec:
    """The four files, as read. `folder` is where knowledge and avatar lie."""

    builder: Json = field(default_factory=dict)
    models: Json = field(default_factory=dict)
    tool_config: Json = field(default_factory=dict)
    plugin: Json = field(default_factory=dict)
    folder: Path | None = None

    @property
    def name(self) -> str:
        """The agent's name."""
        return _text(self.builder, "name")

    @property
    def description(self) -> str:
        """What it is."""
        return _text(self.builder, "description")

    @property
    def instruction(self) -> str:
        """How it behaves."""
        value = self.builder.get("instruction") or ""
        return "；".join(map(str, value)) if isinstance(value, list) else str(value)

    @property
    def prologue(self) -> str:
        """What it says first."""
        return _text(self.builder, "prologue")

    @property
    def avatar(self) -> str:
        """File name of its picture."""
        return _text(self.builder, "avatar")

    @property
    def lang(self) -> Lang:
        """Language of the prompt; Chinese if the file does not say."""
        return Lang.EN if self.builder.get("language") == "en" else Lang.ZH

    @property
    def suggestions(self) -> tuple[str, ...]:
        """What a user may ask first (`prompt_recommend`)."""
        return tuple(str(text) for text in self.builder.get("prompt_recommend") or () if text)

    @property
    def model(self) -> str:
        """The key of its model in `models`."""
        return _text(self.builder, "model")

    @cached_property
    def tools(self) -> tuple[ToolEntry, ...]:
        """The tools of the installation and of the agent; the agent's own entry goes before the installation's."""
        own = self.builder.get("tools") or {}
        keys = dict.fromkeys([*self.tool_config, *own])
        return tuple(ToolEntry.read(key, {**(self.tool_config.get(key) or {}), **(own.get(key) or {})}) for key in keys)

    def llm(self, key: str | None = None) -> Json:
        """Return the llm config of a model of `models` (the agent's own if None). Raises ToolweaveError."""
        key = key or self.model
        entry = self.models.get(key)
        if not isinstance(entry, Mapping):
            known = ", ".join(self.models) or "none"
            raise ToolweaveError(f"the agent's model {key!r} is not in {FileKind.MODELS.file_name}", f"known: {known}")
        llm = dict(entry)
        server = llm.pop("type", None)
        return ({"model_server": server} if server else {}) | llm

    def knowledge_files(self) -> tuple[Path, ...]:
        """Return the knowledge files that exist in the agent's folder; a path elsewhere is never followed."""
        return tuple(path for _, path in self._knowledge() if path is not None)

    def problems(self) -> tuple[str, ...]:
        """Say by name what cannot be used, a sentence each."""
        found = [
            f"tool {entry.key!r} ({entry.name}) is in use, but toolweave has no such tool"
            for entry in self.tools
            if entry.use and entry.key not in TOOL_REGISTRY
        ]
        found += [
            f"{entry.key}: {name!r} is for the operator to set, and is not taken from the agent's files"
            for entry in self._usable()
            for name in sorted(self._refused(entry))
        ]
        if self.model and self.models and self.model not in self.models:
            found.append(f"model {self.model!r} is not in {FileKind.MODELS.file_name}")
        names = {self.model} | {str(entry.get("model")) for entry in self.models.values() if isinstance(entry, Mapping)}
        found += [
            f"model {name!r} is retired: its server may not answer to it" for name in sorted(names) if retired(name)
        ]
        if self.folder is not None:
            found += [
                f"knowledge file {name!r} is not in the agent's folder" for name, path in self._knowledge() if not path
            ]
        try:
            self._plugin_tools()
        except ToolweaveError as error:
            found.append(f"the OpenAPI plugin cannot be used: {error}")
        return tuple(found)

    def function_list(self) -> list[BaseTool]:
        """Make the tools in use, those of the OpenAPI plugin among them; what cannot be made is named in a warning."""
        made: dict[str, BaseTool] = {}
        for entry in self._usable():
            cfg = {key: value for key, value in entry.cfg.items() if key not in self._refused(entry)}
            made[entry.key] = make_tool({entry.key: cfg})
        with suppress(ToolweaveError):  # among the problems
            # An own tool of the same name stays: a spec from elsewhere cannot put itself in its place.
            made = {tool.name: tool for tool in self._plugin_tools()} | made
        for problem in self.problems():
            warnings.warn(problem, stacklevel=2)
        return list(made.values())

    def role_play(self, model: str | Mapping[str, Any] | Model | None = None, **options: Any) -> RolePlay:
        """Return the agent, ready to run.

        `model` is a key of `models` (the agent's own if None), an llm config or a model; `options` are RolePlay's,
        of which `function_list` adds tools. Give `lang=spec.lang` to `run`. Raises ToolweaveError.
        """
        llm = self.llm(model) if model is None or isinstance(model, str) else model
        instruction = {"name": self.name, "description": self.description, "instruction": self.instruction}
        tools = [*self.function_list(), *options.pop("function_list", ())]
        return RolePlay(tools, llm, instruction, **options)

    @classmethod
    def of(cls, files: Mapping[FileKind, Json], folder: Path | None = None) -> AgentSpec:
        """Return the agent of these files; those not given are empty."""
        builder, models, tools, plugin = (files.get(kind, {}) for kind in FileKind)
        return cls(builder, models, tools, plugin, folder)

    def save(self, folder: Path) -> None:
        """Write the files that are not empty into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for kind, content in self.files():
            if content:
                write_json(folder / kind.file_name, content)

    def files(self) -> tuple[tuple[FileKind, Json], ...]:
        """Return the four files."""
        contents = (self.builder, self.models, self.tool_config, self.plugin)
        return tuple(zip(FileKind, contents, strict=True))

    def _usable(self) -> Iterator[ToolEntry]:
        return (entry for entry in self.tools if entry.use and entry.key in TOOL_REGISTRY)

    def _refused(self, entry: ToolEntry) -> frozenset[str]:
        return TOOL_REGISTRY[entry.key].operator_keys & entry.cfg.keys()

    def _plugin_tools(self) -> list[BaseTool]:
        return list(plugin_tools(self.plugin)) if self.plugin.get("schema") else []

    def _knowledge(self) -> Iterator[tuple[str, Path | None]]:
        for name in map(str, self.builder.get("knowledge") or ()):
            yield name, _inside(self.folder, name) if self.folder else None


def retired(model: str) -> bool:
    """Tell whether a model is known to be retired."""
    return _RETIRED.fullmatch(model) is not None


def load_agent(folder: str | os.PathLike[str]) -> AgentSpec:
    """Load the agent of a folder. A file that it lacks is the installation's, or empty.

    The installation's files are named by BUILDER_CONFIG_FILE, MODEL_CONFIG_FILE, TOOL_CONFIG_FILE and
    OPENAPI_PLUGIN_CONFIG_FILE. Raises DataError for a folder without builder_config.json and for a file that is not
    a JSON object.
    """
    root = Path(folder)
    found: dict[FileKind, Json] = {}
    for kind in FileKind:
        override = os.environ.get(kind.variable)
        candidates = [root / kind.file_name, *([Path(override)] if override else [])]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None and kind is FileKind.BUILDER:
            raise DataError(f"{root} has no {kind.file_name}", "name a folder of an agent, or its files")
        found[kind] = read_json(path) if path else {}
    return AgentSpec.of(found, root)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where agents and their histories lie: `config/{uuid}` and `history/{uuid}/preview/{session}` under `root`."""

    root: Path

    @classmethod
    def from_env(cls) -> Layout:
        """Take DEFAULT_AGENT_DIR, /tmp/agentfabric if it is not set."""
        return cls(Path(os.environ.get("DEFAULT_AGENT_DIR") or "/tmp/agentfabric"))  # noqa: S108

    def agent(self, uuid: str = LOCAL_USER) -> Path:
        """Return the folder of an agent. Raises ToolweaveError for a name that is not one part of a path."""
        return self.root / "config" / _part(uuid)

    def history(self, session: str, uuid: str = LOCAL_USER) -> Path:
        """Return the folder of a preview session. Raises ToolweaveError as `agent` does."""
        return self.root / "history" / _part(uuid) / "preview" / _part(session)


def _part(name: str) -> str:
    if not _PATH_PART.fullmatch(name) or set(name) == {"."}:
        raise ToolweaveError(f"{name!r} cannot be part of a path", "use letters, digits, '_', '-' and '.'")
    return name


def _text(content: Json, key: str) -> str:
    return str(content.get(key) or "")


def _inside(folder: Path, name: str) -> Path | None:
    """Return the file of `folder` that a knowledge path means, wherever it once pointed; None if there is none."""
    root = folder.resolve()
    bare = re.split(r"[/\\]", name)[-1]
    for path in (folder / name, folder / bare):
        resolved = path.resolve()
        if resolved.is_relative_to(root) and resolved.is_file():
            return resolved
    return None
