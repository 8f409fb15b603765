"""From an agent's files to an agent that runs here: visits recorded, keys put in, tools without one simulated."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from toolweave.agents import RolePlay
from toolweave.agents.spec import AgentSpec
from toolweave.agents.toolbox import Policy
from toolweave.knowledge import Knowledge
from toolweave.studio.plugins import mcp_tools, plugin_with_key
from toolweave.studio.pretend import is_simulated, key_option, lacks_key, pretend
from toolweave.studio.rerun import Rerun
from toolweave.studio.workspace import Home
from toolweave.tools.base import BaseTool, Effect
from toolweave.tools.code_interpreter import CodeInterpreter
from toolweave.tools.registry import TOOL_REGISTRY
from toolweave.traces.recording import RecordingModel
from toolweave.types import Json, Lang, ToolCall


@dataclass(frozen=True, slots=True)
class Cast:
    """An agent that is ready to run; `simulated` are the names of its tools that only pretend."""

    agent: RolePlay
    lang: Lang
    simulated: frozenset[str]


def cast(
    home: Home,
    agent: str,
    source: str,
    *,
    model: str = "",
    simulate_all: bool = False,
    confirm: Callable[[ToolCall], bool] | None = None,
    rerun: Rerun | None = None,
) -> Cast:
    """Return an agent of the user, asking `model` of the user's models (its own if empty).

    Every exchange is recorded in the user's traces under `source`. Tools that lack a key are simulated, all of them
    with `simulate_all`. `confirm` asks the user before a tool runs that may destroy something, and before code does;
    without it, the former are refused. `rerun` plays the beginning of the turn. A model that the Studio serves is
    started first. Raises ToolweaveError.
    """
    spec = home.agent(agent)
    tools = [
        pretend(tool, spec.lang) if simulate_all or lacks_key(tool) else tool for tool in agent_tools(home, agent, spec)
    ]
    simulated = frozenset(tool.name for tool in tools if is_simulated(tool))
    if confirm is not None:
        for tool in tools:
            if isinstance(tool, CodeInterpreter):
                tool.effect = Effect.DANGEROUS  # its sandbox is on this machine, so whoever sits there is asked
    bare = replace(spec, builder={**spec.builder, "tools": {}}, tool_config={}, plugin={})
    role = bare.role_play(
        home.llm(model or spec.model, spec),
        function_list=tools if rerun is None else list(map(rerun.tool, tools)),
        knowledge=Knowledge(spec.knowledge_files()),
        policy=Policy(confirm=confirm if rerun is None or confirm is None else _unless_played(rerun, confirm)),
    )
    # The dialect may have to be asked for, which the model that records cannot.
    _ = role.dialect
    recording = RecordingModel(role.llm, home.recorder, source)
    role.llm = recording if rerun is None else rerun.model(recording)
    return Cast(role, spec.lang, simulated)


def _unless_played(rerun: Rerun, confirm: Callable[[ToolCall], bool]) -> Callable[[ToolCall], bool]:
    return lambda call: not rerun.over or confirm(call)


def agent_tools(home: Home, agent: str, spec: AgentSpec) -> list[BaseTool]:
    """Make the tools of an agent, as they really are; the keys that the user gave go in only here.

    Raises ToolweaveError for an MCP server that cannot be reached.
    """
    own: Json = dict(spec.builder.get("tools") or {})
    for name, entry in own.items():
        option = key_option(TOOL_REGISTRY[name]) if name in TOOL_REGISTRY else ""
        # A key goes to the public service, not to an address that the agent's file names.
        if option and isinstance(entry, dict) and not entry.get("base_url") and (key := home.key(f"tool:{name}")):
            own[name] = {**entry, option: key}
    keyed = plugin_with_key(home, agent, replace(spec, builder={**spec.builder, "tools": own}))
    with warnings.catch_warnings():
        # What cannot be used is told by the form.
        warnings.simplefilter("ignore")
        made = keyed.function_list()
    return [*made, *mcp_tools(home, spec)]
