"""What makes a visit right: pure functions over calls and texts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from toolweave.dialects.agentfabric import contains_chinese
from toolweave.types import Lang, ToolCall

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_URL = re.compile(r"https?://[\w./%?=&#:-]+")
_IGNORED = re.compile(r"[\s,./\-_*^，。、！？!?'\"“”‘’]")
_MARKERS = re.compile(r"Action\s*(?:Input)?\s*[:：]|Observation\s*[:：]|<result>|<\|im_")
_FAILURE = re.compile(
    r"抱歉|不好意思|对不起|失败|出错|错误|无法|未能|没能|没有成功|暂时|问题|"
    r"sorry|apolog|fail|error|unable|could ?n[o']t|can ?not|can't|unfortunately|problem|went wrong|trouble",
    re.IGNORECASE,
)
_ASKING = re.compile(
    r"[?？]|请问|请告诉|请提供|请说|告诉我|what|which|where|who|when|how|please|tell me|could you", re.IGNORECASE
)


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


def states_facts(answer: str, facts: Iterable[str]) -> bool:
    """Tell whether the answer carries every fact: numbers as whole numbers, words as written."""
    numbers = {float(number) for number in _NUMBER.findall(answer)}
    plain = _plain(answer)
    return all(float(fact) in numbers if _NUMBER.fullmatch(fact) else _plain(fact) in plain for fact in facts)


def invents_nothing(answer: str, sources: Iterable[str]) -> bool:
    """Tell whether every number and URL of the answer stands in a source (prompt, query, observations)."""
    known = "\n".join(sources)
    numbers = {float(number) for number in _NUMBER.findall(known)}
    if any(float(number) not in numbers for number in _NUMBER.findall(answer)):
        return False
    return all(url.rstrip(".") in known for url in _URL.findall(answer))


def speaks(answer: str, lang: Lang) -> bool:
    """Tell whether the answer says something in the user's language, free of protocol markers."""
    return bool(answer.strip()) and contains_chinese(answer) == (lang is Lang.ZH) and not _MARKERS.search(answer)


def admits_failure(answer: str) -> bool:
    """Tell whether the answer says that something went wrong."""
    return bool(_FAILURE.search(answer))


def asks(answer: str) -> bool:
    """Tell whether the answer asks the user for something."""
    return bool(_ASKING.search(answer))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a rate, as shares of 1; (0, 1) when nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
