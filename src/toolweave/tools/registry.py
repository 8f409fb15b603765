"""The registry: tools by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from toolweave.errors import ToolweaveError
from toolweave.tools.base import BaseTool
from toolweave.tools.function import function_tool

TOOL_REGISTRY: dict[str, type[BaseTool]] = {}
"""The tool classes, by the name they are asked for in `function_list`."""

_Registered = TypeVar("_Registered", bound=Callable[..., Any])


def register_tool(name: str) -> Callable[[_Registered], _Registered]:
    """Register a `BaseTool` class, or a typed function, under a name. Registering again replaces, with a warning.

    Example:
        @register_tool("stock_price")
        class StockPrice(BaseTool): ...
    """

    def decorator(target: _Registered) -> _Registered:
        tool: type = target if isinstance(target, type) else function_tool(name, target)
        if not issubclass(tool, BaseTool):
            raise ToolweaveError(f"{tool.__qualname__} is not a tool", "derive it from BaseTool")
        if name in TOOL_REGISTRY:
            warnings.warn(f"tool {name!r} is registered again: the new one replaces it", stacklevel=2)
        tool.name = tool.name or name
        TOOL_REGISTRY[name] = tool
        return target

    return decorator


def make_tool(item: str | Mapping[str, Any] | BaseTool) -> BaseTool:
    """Make the tool of a `function_list` item: a name, `{name: cfg}`, or a tool itself.

    Raises ToolweaveError for a name that is not registered.
    """
    if isinstance(item, BaseTool):
        return item
    if not isinstance(item, str) and len(item) != 1:
        raise ToolweaveError(f"cannot make a tool of {dict(item)!r}", 'write "name" or {"name": {…its configuration…}}')
    name, cfg = (item, None) if isinstance(item, str) else next(iter(item.items()))
    if name not in TOOL_REGISTRY:
        raise ToolweaveError(f"unknown tool {name!r}", f"registered are: {', '.join(sorted(TOOL_REGISTRY))}")
    return TOOL_REGISTRY[name](cfg)
