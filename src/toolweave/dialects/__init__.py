"""Dialects: the prompt formats in which apps and models talk about tools."""

from __future__ import annotations

from toolweave.dialects.agentfabric import AgentFabric
from toolweave.dialects.base import CallsPerReply, Dialect, Prompt, ToolsIn
from toolweave.dialects.hermes import Hermes
from toolweave.dialects.native import Native
from toolweave.dialects.parallel import ParallelAgentFabric
from toolweave.dialects.react import ReAct
from toolweave.errors import ToolweaveError
from toolweave.types import Sample

_DIALECTS: dict[str, Dialect] = {
    name: dialect
    for dialect, *names in (
        (AgentFabric("v06"), "v06"),
        (AgentFabric("v07"), "v07"),
        (ParallelAgentFabric(), "v07-parallel"),
        (ReAct(), "ms_agent"),
        (Hermes(), "nous"),
        (Native(), "openai"),
    )
    for name in (dialect.name, *names)
}


def get_dialect(name: str) -> Dialect:
    """Return a dialect by name (`agentfabric-v06`, `hermes`, …) or short name (`v06`, …)."""
    if name not in _DIALECTS:
        raise ToolweaveError(f"unknown dialect {name!r}", f"choose one of {', '.join(sorted(_DIALECTS))}")
    return _DIALECTS[name]


def dialect_of(sample: Sample) -> Dialect | None:
    """Return the dialect that a sample was written in, if its meta names one."""
    return _DIALECTS.get(str(sample.meta.get("dialect")))


__all__ = ["AgentFabric", "CallsPerReply", "Dialect", "Prompt", "ToolsIn", "dialect_of", "get_dialect"]
