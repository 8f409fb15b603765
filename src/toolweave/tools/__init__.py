"""Tools: `BaseTool`, the registry, and the built-in tools, which importing this package registers."""

from __future__ import annotations

from toolweave.tools import (
    amap_weather,
    code_interpreter,
    image_edit,
    image_gen,
    qwen_vl,
    speech,
    web_browser,
    web_search,
)
from toolweave.tools.base import BaseTool, Effect
from toolweave.tools.registry import TOOL_REGISTRY, register_tool

__all__ = [
    "TOOL_REGISTRY",
    "BaseTool",
    "Effect",
    "amap_weather",
    "code_interpreter",
    "image_edit",
    "image_gen",
    "qwen_vl",
    "register_tool",
    "speech",
    "web_browser",
    "web_search",
]
