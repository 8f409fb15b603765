"""Where a Studio keeps what it makes, for each user apart, in `{root}/users/{user}/`.

`agents/{agent}/` holds AgentFabric's JSON files, knowledge and avatar; `model_config.json` the models, in
AgentFabric's form and without keys; `keys.json` the keys by the address they are for, which never leave this process;
`traces.db` every visit; beside them lie `conversations/`, `uploads/`, `datasets/` and `runs/`.
"""

from __future__ import annotations

import copy
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

from toolweave.agents.archive import export_agent, import_agent, without_secrets
from toolweave.agents.spec import LOCAL_USER, AgentSpec, FileKind, load_agent
from toolweave.data.json_files import read_json, write_json
from toolweave.errors import ToolweaveError
from toolweave.models.client import ModelClient
from toolweave.models.presets import Endpoint
from toolweave.studio.conversation import Conversation
from toolweave.studio.defaults import FIRST_AGENT, blank_agent, default_models, default_tools, first_agent
from toolweave.studio.local_models import LocalModels, check_local
from toolweave.studio.sharing import Shares
from toolweave.tools.base import BaseTool
from toolweave.tools.mcp import Http, McpServer
from toolweave.traces.recorder import Recorder
from toolweave.traces.store import TraceStore
from toolweave.types import Json, Lang

_PART = re.compile(r"[\w-][\w.-]{0,63}")
_NO_KEY = "EMPTY"
_SERVED_HERE = "toolweave"


class Workspace:
    """The users' homes under `root`, and the models served for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.local_models = LocalModels()
        self.shares = Shares(root / "shares.json")
        self._homes: dict[str, Home] = {}
        self._lock = RLock()

    def home(self, user: str = LOCAL_USER) -> Home:
        """Return the home of a user, made on the first call. Raises ToolweaveError for a name unfit for a folder."""
        with self._lock:
            if user not in self._homes:
                self._homes[user] = Home(self.root / "users" / part(user), self.local_models)
            return self._homes[user]

    def visitor(self, key: str) -> tuple[Home, str]:
        """Return, for one who has the key of a shared agent, a home that holds this agent only, and the agent.

        Raises ToolweaveError for an unknown key.
        """
        share = self.shares.get(key)
        if share is None:
            raise ToolweaveError("this agent is not shared any more", "ask its owner for a new link")
        return self.home(share.user).only(share.agent), share.agent

    def close(self) -> None:
        """Write what is still to be written, and end the model servers."""
        with self._lock:
            for home in self._homes.values():
                home.close()
            self._homes.clear()
        self.local_models.close()


class Home:
    """What belongs to one user. Safe to use from several threads."""

    def __init__(self, folder: Path, local_models: LocalModels) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.datasets = folder / "datasets"
        self.uploads = folder / "uploads"
        self.conversations = folder / "conversations"
        self._agents = folder / "agents"
        self._local_models = local_models
        self._only: str | None = None
        self._lock = RLock()
        self._connections = ExitStack()
        self._mcp: dict[str, tuple[Http, McpServer]] = {}
        self._open: dict[tuple[str, str], Conversation] = {}
        for made in (self.runs, self.datasets, self.uploads, self.conversations, self._agents):
            made.mkdir(parents=True, exist_ok=True)

    # --- agents ------------------------------------------------------------------------------

    def agents(self, lang: Lang = Lang.ZH) -> dict[str, str]:
        """Return the names of the user's agents by key, by name; the first agent is made if there is none."""
        with self._lock:
            found = [path for path in self._agents.iterdir() if (path / FileKind.BUILDER.file_name).is_file()]
            if not found:
                self.save_agent(FIRST_AGENT, AgentSpec(builder=first_agent(lang)))
                return {FIRST_AGENT: self.agent(FIRST_AGENT).name}
        named = ((path.name, load_agent(path).name) for path in found)
        return dict(sorted(named, key=lambda item: item[1]))

    def agent(self, key: str, lang: Lang = Lang.ZH) -> AgentSpec:
        """Return an agent, with the user's models and every built-in tool. Raises DataError if there is none."""
        folder = self.agent_folder(key)
        spec = load_agent(folder)
        return replace(spec, models=self.models() | _unknown(spec, self.models()), tool_config=_tools(spec, lang))

    def agent_folder(self, key: str) -> Path:
        """Return the folder of an agent. Raises ToolweaveError for a key that is not one part of a path."""
        if self._only not in (None, key):
            raise ToolweaveError("this agent is not shared")
        return self._agents / part(key)

    def only(self, agent: str) -> Home:
        """Return this home with one agent in it, for a visitor of that agent."""
        _ = self.recorder  # the one that both use
        visited = copy.copy(self)
        visited._only = agent
        return visited

    @property
    def visited(self) -> bool:
        """Whether this is how a visitor of a shared agent sees it."""
        return self._only is not None

    def new_agent(self, lang: Lang = Lang.ZH) -> str:
        """Make an agent and return its key."""
        key = f"agent-{secrets.token_hex(4)}"
        self.save_agent(key, AgentSpec(builder=blank_agent(lang)))
        return key

    def save_agent(self, key: str, spec: AgentSpec) -> None:
        """Write an agent's builder and plugin files; models and tools of the installation are not written into it."""
        folder = self.agent_folder(key)
        with self._lock:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / FileKind.BUILDER.file_name, spec.builder)
            if spec.plugin or (folder / FileKind.PLUGIN.file_name).exists():
                write_json(folder / FileKind.PLUGIN.file_name, spec.plugin)

    def delete_agent(self, key: str) -> None:
        """Delete an agent; its visits stay among the traces."""
        with self._lock:
            shutil.rmtree(self.agent_folder(key), ignore_errors=True)

    def import_agent(self, archive: Path, key: str = "") -> str:
        """Unpack an agent's archive and return the agent's key, a new one unless it is given. Raises DataError.

        An agent that has this key gives way, once the archive has been read.
        """
        key = key or f"agent-{secrets.token_hex(4)}"
        folder = self.agent_folder(key)
        new = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        import_agent(archive, new)
        with self._lock:
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
        return key

    def export_agent(self, key: str, target: Path) -> None:
        """Write an agent's archive, without keys, with the model it uses. Raises DataError."""
        spec = self.agent(key)
        used = {key: entry for key, entry in spec.models.items() if key == spec.model}
        export_agent(replace(spec, models=used), target)

    # --- models ------------------------------------------------------------------------------

    def models(self) -> Json:
        """Return the user's `model_config`: the defaults, then the user's own entries. It holds no key."""
        path = self.folder / FileKind.MODELS.file_name
        return default_models() | (read_json(path) if path.is_file() else {})

    def save_model(self, key: str, entry: Mapping[str, Any], api_key: str = "") -> None:
        """Add or change a model; its key, if one is given, is kept apart and for this address only.

        Raises ToolweaveError for an entry that names no model, an unknown server, or a folder that is no model.
        """
        if not key.strip():
            raise ToolweaveError("the model has no name in the list", "give it one")
        entry = dict(entry)
        if _is_served_here(entry):
            check_local(str(entry.get("model")))
        else:
            ModelClient(entry)
        path = self.folder / FileKind.MODELS.file_name
        with self._lock:
            own = read_json(path) if path.is_file() else {}
            write_json(path, own | {key: without_secrets(entry)})
            if api_key:
                self.keep_key(Endpoint.of(entry).url, api_key)

    def delete_model(self, key: str) -> None:
        """Take a model of the user's own off the list; a default one comes back as it was."""
        path = self.folder / FileKind.MODELS.file_name
        with self._lock:
            own = read_json(path) if path.is_file() else {}
            write_json(path, {name: entry for name, entry in own.items() if name != key})

    def llm(self, key: str, agent: AgentSpec | None = None) -> Json:
        """Return the llm config of a model with its key, ready for `ModelClient` and `RolePlay`; it streams.

        A model that the Studio serves itself is started, which may take a while. The environment's keys go to the
        public servers they are for, never to an address that an agent's file names. Raises ToolweaveError.
        """
        spec = agent or AgentSpec(models=self.models())
        llm = {"support_stream": True} | spec.llm(key)
        if _is_served_here(llm):
            model = str(llm["model"])
            if key not in self.models():
                raise ToolweaveError(f"the model {key!r} came with the agent", "add it to your models first")
            check_local(model)
            return llm | {"api_base": self._local_models.api_base(model)}
        endpoint = Endpoint.of(llm)
        if stored := self._keys().get(endpoint.url):
            return llm | {"api_key": stored}
        own = Endpoint.of({"model_server": llm.get("model_server")})
        return llm if endpoint.url == own.url else llm | {"api_key": _NO_KEY}

    def must_start(self, key: str) -> bool:
        """Tell whether a model is one that the Studio serves and has not started yet."""
        entry = self.models().get(key) or {}
        return _is_served_here(entry) and not self._local_models.running(str(entry.get("model")))

    def can_build(self, key: str) -> bool:
        """Tell whether a model may be able to configure agents: any but those served here, if there is a key for it."""
        entry = self.models().get(key) or {}
        if _is_served_here(entry):
            return False
        try:
            endpoint = Endpoint.of(entry)
            if not self.has_key(entry):
                endpoint.check_key()
        except ToolweaveError:
            return False
        # A default entry for a server on this machine says nothing about there being one.
        return endpoint.preset.needs_key or key not in default_models()

    # --- keys --------------------------------------------------------------------------------

    def keep_key(self, name: str, key: str) -> None:
        """Keep a key apart from the agents, such as `tool:amap_weather`; an empty one is forgotten."""
        path = self.folder / "keys.json"
        with self._lock:
            kept = {**self._keys(), name: key}
            write_json(path, {name: key for name, key in kept.items() if key}, mode=0o600)

    def key(self, name: str) -> str:
        """Return a key, empty if none is kept."""
        return self._keys().get(name, "")

    def has_key(self, llm: Mapping[str, Any]) -> bool:
        """Tell whether there is a key for the address of an llm config, without saying which."""
        return Endpoint.of(llm).url in self._keys()

    def _keys(self) -> dict[str, str]:
        path = self.folder / "keys.json"
        return {name: str(key) for name, key in read_json(path).items()} if path.is_file() else {}

    # --- visits ------------------------------------------------------------------------------

    @cached_property
    def traces(self) -> TraceStore:
        """The user's trace store."""
        return TraceStore(self.folder / "traces.db", create=True)

    @cached_property
    def recorder(self) -> Recorder:
        """What writes visits into the trace store."""
        return Recorder(self.traces)

    def conversation(self, agent: str, session: str) -> Conversation:
        """Return the conversation of a session with an agent. Raises ToolweaveError for a name unfit for a path."""
        with self._lock:
            self.agent_folder(agent)
            if (agent, session) not in self._open:
                path = self.conversations / part(agent) / f"{part(session)}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                self._open[agent, session] = Conversation(path, self.traces)
            return self._open[agent, session]

    def upload(self, session: str, file: Path) -> Path:
        """Keep a copy of a file that a user gave to a conversation, and return it."""
        folder = self.uploads / part(session)
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(file, folder / file_name(file.name)))

    def mcp_tools(self, name: str, server: Http) -> Sequence[BaseTool]:
        """Return the tools of an MCP server, connected on the first call. Raises ToolweaveError."""
        with self._lock:
            known = self._mcp.get(name)
            if known is None or known[0] != server:
                connected = self._connections.enter_context(McpServer(server, prefix=f"{name}_"))
                known = self._mcp[name] = (server, connected)
            return known[1].tools

    def close(self) -> None:
        """Write what waits and close the trace store."""
        with self._lock:
            self._connections.close()
            if "recorder" in vars(self):
                self.recorder.close()
            if "traces" in vars(self):
                self.traces.close()


def file_name(name: str) -> str:
    """Return a name of an upload that is a plain file's."""
    return re.sub(r"[^\w.-]+", "_", Path(name).name).lstrip(".")[-100:] or "file"


def part(name: str) -> str:
    """Return a name that may be a folder's. Raises ToolweaveError for any other."""
    if not _PART.fullmatch(name):
        raise ToolweaveError(f"{name!r} cannot be part of a path", "use letters, digits, '_', '-' and '.'")
    return name


def _is_served_here(entry: Mapping[str, Any]) -> bool:
    kind = entry.get("model_server") or entry.get("type")
    return kind == _SERVED_HERE and not entry.get("api_base")


def _unknown(spec: AgentSpec, known: Json) -> Json:
    """Return the models that an agent brought along and the user does not have."""
    return {key: entry for key, entry in spec.models.items() if key not in known}


def _tools(spec: AgentSpec, lang: Lang) -> Json:
    known, own = default_tools(lang), spec.tool_config
    return known | {key: known.get(key, {}) | entry for key, entry in own.items() if isinstance(entry, Mapping)}
