"""Agents: `RolePlay` and the loop underneath."""

from __future__ import annotations

from toolweave.agents.role_play import RolePlay

__all__ = ["RolePlay"]
