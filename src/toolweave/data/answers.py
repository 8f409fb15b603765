"""How the embedded data answers: in one form, made of what the tools returned."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from toolweave.types import Lang, Step

_INTRODUCTION = {Lang.ZH: "结果如下：", Lang.EN: "Here is the result: "}
_APOLOGY = {Lang.ZH: "抱歉，操作失败：", Lang.EN: "Sorry, that failed: "}
_PICTURE = re.compile(r"(?:!\[\w+\]\()?(?P<url>https?://\S+?\.(?:png|jpg))\)?")
_PICTURE_NAME = {Lang.ZH: "图片", Lang.EN: "Image"}


def retell(steps: Sequence[Step], lang: Lang, failed: Mapping[int, str] = MappingProxyType({})) -> str:
    """Say what the tools returned, nothing else, always in one form; `failed` has the reason of a step that failed.

    A small model learns one form in few rows and then keeps to it with any tool; of many wordings it learns which is
    likely, and nothing about what they say.
    """
    told = []
    for number, step in enumerate(steps):
        if number in failed:
            told.append(_ended(apologise(failed[number], lang), lang))
        else:
            begins = number == 0 or number - 1 in failed
            told.append(_INTRODUCTION[lang] * begins + _retold(step.observation, lang))
    return ("" if lang is Lang.ZH else " ").join(told)


def apologise(detail: str, lang: Lang) -> str:
    """Say that a tool failed, and what it said."""
    return _APOLOGY[lang] + detail


def _retold(observation: str, lang: Lang) -> str:
    """Return an observation as a sentence: a JSON object as its members, a picture as the prompt wants it shown."""
    comma, colon = ("，", "：") if lang is Lang.ZH else (", ", ": ")
    told = observation
    if observation.startswith("{"):
        told = comma.join(f"{key}{colon}{value}" for key, value in _leaves(json.loads(observation)))
    told = _PICTURE.sub(lambda found: f"![{_PICTURE_NAME[lang]}]({found['url']})", told)
    return _ended(told, lang)


def _ended(text: str, lang: Lang) -> str:
    return text if text[-1] in ".。!！)" else text + ("。" if lang is Lang.ZH else ".")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the innermost members of a JSON value, each with its own key."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _leaves(member, name)
    elif isinstance(value, list):
        for member in value:
            yield from _leaves(member, key)
    else:
        yield key, value
