"""Dialects: the prompt formats in which apps and models talk about tools."""

from __future__ import annotations

from toolweave.dialects.agentfabric import AgentFabric
from toolweave.dialects.base import Dialect, Prompt
from toolweave.errors import ToolweaveError

_DIALECTS: dict[str, Dialect] = {}
for _dialect in (AgentFabric("v06"), AgentFabric("v07")):
    _DIALECTS[_dialect.name] = _dialect
    _DIALECTS[_dialect.variant] = _dialect


def get_dialect(name: str) -> Dialect:
    """Return a dialect by name (`agentfabric-v06`) or short name (`v06`)."""
    if name not in _DIALECTS:
        raise ToolweaveError(f"unknown dialect {name!r}", f"choose one of {', '.join(sorted(_DIALECTS))}")
    return _DIALECTS[name]


__all__ = ["AgentFabric", "Dialect", "Prompt", "get_dialect"]
