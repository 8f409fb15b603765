"""Tools: `BaseTool`, the registry, and the built-in tools, which importing this package registers."""

from __future__ import annotations

from toolweave.tools import amap_weather, image_gen
from toolweave.tools.base import BaseTool
from toolweave.tools.registry import TOOL_REGISTRY, register_tool

__all__ = ["TOOL_REGISTRY", "BaseTool", "amap_weather", "image_gen", "register_tool"]
