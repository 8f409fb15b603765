"""From an agent's files to an agent that runs here: visits recorded, keys put in, tools without one simulated."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

from toolweave.agents import RolePlay
from toolweave.agents.spec import AgentSpec
from toolweave.knowledge import Knowledge
from toolweave.studio.pretend import is_simulated, key_option, lacks_key, pretend
from toolweave.studio.workspace import Home
from toolweave.tools.base import BaseTool
from toolweave.tools.registry import TOOL_REGISTRY
from toolweave.traces.recording import RecordingModel
from toolweave.types import Json, Lang


@dataclass(frozen=True, slots=True)
class Cast:
    """An agent that is ready to run; `simulated` are the names of its tools that only pretend."""

    agent: RolePlay
    lang: Lang
    simulated: frozenset[str]


def cast(home: Home, spec: AgentSpec, source: str, *, model: str = "", simulate_all: bool = False) -> Cast:
    """Return the agent, asking `model` of the user's models (its own if empty).

    Every exchange is recorded in the user's traces under `source`. Tools that lack a key are simulated, all of them
    with `simulate_all`. A model that the Studio serves is started first. Raises ToolweaveError.
    """
    tools = [pretend(tool, spec.lang) if simulate_all or lacks_key(tool) else tool for tool in _tools(home, spec)]
    bare = replace(spec, builder={**spec.builder, "tools": {}}, tool_config={}, plugin={})
    agent = bare.role_play(home.llm(model or spec.model, spec), function_list=tools, knowledge=_knowledge(spec))
    # The dialect may have to be asked for, which the model that records cannot.
    _ = agent.dialect
    agent.llm = RecordingModel(agent.llm, home.recorder, source)
    return Cast(agent, spec.lang, frozenset(tool.name for tool in tools if is_simulated(tool)))


def _tools(home: Home, spec: AgentSpec) -> Sequence[BaseTool]:
    """Make the agent's tools; the keys that the user gave go in only here."""
    own: Json = dict(spec.builder.get("tools") or {})
    for name, entry in own.items():
        option = key_option(TOOL_REGISTRY[name]) if name in TOOL_REGISTRY else ""
        # A key goes to the public service, not to an address that the agent's file names.
        if option and isinstance(entry, dict) and not entry.get("base_url") and (key := home.tool_key(name)):
            own[name] = {**entry, option: key}
    with warnings.catch_warnings():
        # What cannot be used is told by the form.
        warnings.simplefilter("ignore")
        return replace(spec, builder={**spec.builder, "tools": own}).function_list()


def _knowledge(spec: AgentSpec) -> Knowledge:
    return Knowledge(spec.knowledge_files())
