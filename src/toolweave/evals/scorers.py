"""Whether calls are the same: names and arguments, compared as BFCL compares them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from toolweave.types import ToolCall

_IGNORED = re.compile(r"[\s,./\-_*^，。、！？!?'\"“”‘’]")


def same_calls(made: Sequence[ToolCall], expected: Sequence[ToolCall]) -> bool:
    """Tell whether the same calls were made, in any order, with equal arguments."""
    left = list(expected)
    for call in made:
        match = next((other for other in left if same_call(call, other)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def same_call(call: ToolCall, expected: ToolCall) -> bool:
    """Compare name and arguments; strings are compared without case, spaces and punctuation (as BFCL does)."""
    return call.name == expected.name and _same(call.arguments, expected.arguments)


def _same(value: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        if not isinstance(value, dict) or value.keys() != expected.keys():
            return False
        return all(_same(value[key], item) for key, item in expected.items())
    if isinstance(expected, list):
        return (
            isinstance(value, list)
            and len(value) == len(expected)
            and all(_same(x, y) for x, y in zip(value, expected, strict=True))
        )
    if isinstance(expected, str):
        return isinstance(value, str) and _plain(value) == _plain(expected)
    if isinstance(expected, bool) or isinstance(value, bool):
        return value is expected
    return isinstance(value, int | float) and value == expected


def _plain(text: str) -> str:
    return _IGNORED.sub("", text).lower()
