"""Requests for a tool, built from its description: what a user might say who wants just this."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolweave.data.agent_values import Value, label, phrase_book, words
from toolweave.types import Lang, ToolSpec

_PREAMBLE = {
    Lang.ZH: re.compile(
        r"^(?:该|本|此|这个)?(?:接口|工具|函数|API|功能)?(?:可以|可|能够|能)?(?:用于|用来|支持|允许用户|帮助用户|允许)?"
    ),
    Lang.EN: re.compile(
        r"^(?:(?:this|the) (?:tool|api|function|endpoint|method) )?(?:is )?(?:(?:used|useful|use this \w+) (?:to|for) |"
        r"(?:allows?|enables?|lets?|helps?) (?:you|users?|the user) (?:to )?|can )?",
        re.IGNORECASE,
    ),
}
_LOOKS_UP = {
    Lang.ZH: re.compile(r"^(?:获取|查询|检索|得到|查找|搜索|查看|返回|获得|读取|列出|显示|提供|了解|查)(?:关于|有关)?"),
    Lang.EN: re.compile(
        r"^(?:get|retrieve|fetch|obtain|query|find|search(?: for)?|look up|check|return|list|show|display|provide|view|"
        r"access|read)s?\s+",
        re.IGNORECASE,
    ),
}
_GIVEN = {
    Lang.ZH: (r"(?:(?:指定|给定|特定|某个|某一个?|目标|相应|对应|提供)的?)", r"(?:根据|通过|按照|按|基于|使用|依据)"),
    Lang.EN: (
        r"(?:(?:a|an|the|any)\s+)?(?:specified|given|specific|certain|particular|selected|provided)\s+",
        r"(?:based on|by|according to|using|with)\s+(?:(?:a|an|the|its|their)\s+)?",
    ),
}
_START = re.compile(r"\b(?:start|from|begin|since|checkin|base|source|origin)\b")
_END = re.compile(r"\b(?:end|to|until|checkout|target|destination)\b")
_DATES = re.compile(r"\b(?:date|day|time)\b")
_DETAILS = re.compile(r",? (?:such as|including|like|e\.g\.) .*|[，、](?:如|例如|包括|并|支持|可|以及).*")
_TAIL = {
    Lang.ZH: re.compile(r"(?:的?(?:名称|名字|编号|标识符?|代码|ID))+$"),
    Lang.EN: re.compile(r"\s*\b(?:name|id|code|identifier)s?$", re.I),
}
_COUNT = re.compile(r"^\d+\s*(\D+)$")
_FEW = {Lang.ZH: "(?:数|几|若干){unit}", Lang.EN: r"\b(?:a few|few|several) {unit}"}
_OF = "at|in|of|for|by|to|from|on"
_SENTENCE = re.compile(r"[。！；\n]|\.(?:\s|$)|;\s")


@dataclass(frozen=True, slots=True)
class Request:
    """A part of a sentence that asks for a call: a noun phrase to be looked up, or a verb phrase to be done."""

    text: str
    looks_up: bool
    given: tuple[str, ...]
    """What the text has no place for, each as a user adds it."""


class Requests:
    """Writes requests in one language."""

    def __init__(self, lang: Lang, rng: random.Random) -> None:
        self._lang, self._rng = lang, rng
        self._frames: dict[str, list[Any]] = {name: each[lang] for name, each in phrase_book()["frames"].items()}
        self._comma = "，" if lang is Lang.ZH else ", "

    def pick(self, frame: str) -> str:
        """Return a wording of a frame of the phrase book."""
        return str(self._rng.choice(self._frames[frame]))

    def label(self, tool: ToolSpec, name: str) -> str:
        """Return what a user calls a parameter."""
        return label(name, tool.parameters.get("properties", {}).get(name) or {}, self._lang)

    def sentence(self, tool: ToolSpec, values: Mapping[str, Value], *, bare: bool = False) -> str:
        """Return a sentence, or a `bare` clause to be joined, that asks for a call with these values."""
        rng, request = self._rng, self._request(tool, values)
        frame = self.pick("np" if request.looks_up else "vp")
        said = frame.replace("{x}", request.text)
        if request.given and rng.random() < 0.2:
            said = self._comma.join((*request.given, said))
        elif request.given:
            said = self._comma.join((said, *request.given))
        return said if bare else self.finish(said)

    def finish(self, said: str) -> str:
        """Give a sentence a capital and its punctuation, or leave it as people type."""
        rng = self._rng
        if self._lang is Lang.EN and rng.random() < 0.6:
            said = said[:1].upper() + said[1:]
        if said[-1:] in "?？!！.。":
            return said
        asks = said.endswith(("吗", "呢", "么", "什么")) or re.match(
            r"(?:what|how|can|could|do)\b", said, re.IGNORECASE
        )
        return said + rng.choice(("", "？" if asks else "。") if self._lang is Lang.ZH else ("", "?" if asks else "."))

    def _request(self, tool: ToolSpec, values: Mapping[str, Value]) -> Request:
        lang, rng = self._lang, self._rng
        text = _SENTENCE.split(tool.description.strip())[0].strip() or words(tool.name)
        text = _PREAMBLE[lang].sub("", text, count=1) or text
        verb = _LOOKS_UP[lang].match(text)
        # A short list of nouns such as "Weather forecast" is asked for, too.
        text = text[verb.end() :] if verb else text
        if not verb and lang is Lang.EN:
            text = _imperative(text)
        if rng.random() < 0.8:
            text = _DETAILS.sub("", text)
        if verb and lang is Lang.EN and rng.random() < 0.3:
            text = words(tool.name).partition(" ")[2] or text
        text = self._reword(text)
        if verb and rng.random() < 0.35:
            text = _head(text, lang)
        text, left = self._fill(tool, text, values, looks_up=verb is not None)
        return Request(text, verb is not None, tuple(self._given(tool, left)))

    def _reword(self, text: str) -> str:
        for word, others in phrase_book()["synonyms"][self._lang].items():
            if word in text.lower() and self._rng.random() < 0.35:
                text = re.sub(re.escape(word), self._rng.choice(others), text, count=1, flags=re.IGNORECASE)
        # A name in brackets is said by few.
        if self._rng.random() < 0.8:
            text = re.sub(r"[(（][^()（）]*[)）]", "", text)
        return re.sub(r"\s{2,}", " ", text).strip()

    def _fill(
        self, tool: ToolSpec, text: str, values: Mapping[str, Value], *, looks_up: bool
    ) -> tuple[str, dict[str, Value]]:
        """Put values where the description speaks of their parameters; return what found no place too."""
        lang, rng, left = self._lang, self._rng, dict(values)
        given, by = _GIVEN[lang]
        for name, value in values.items():
            # "the next few days" gives way to "the next 5 days".
            counted = _COUNT.search(value.text)
            if counted and (few := re.search(_FEW[lang].format(unit=re.escape(counted[1])), text)):
                text = text[: few.start()] + value.text + text[few.end() :]
                del left[name]
                continue
            nouns = self._nouns(tool, name)
            noun = "|".join(map(re.escape, nouns))
            plain = f"{value.text}的" if lang is Lang.ZH and rng.random() < 0.2 else value.text
            found = re.search(f"{given}(?:{noun})(?:名称|ID)?(?:\\b|(?<=[^ -~]))", text, re.IGNORECASE)
            if found is None and (found := re.search(f"{by}{given}?(?:{noun})", text, re.IGNORECASE)):
                plain = ("根据" if lang is Lang.ZH else "for ") + value.text
            if found:
                text = (
                    text[: found.start()]
                    + plain.removesuffix("的" if text[found.end() :].startswith("的") else "")
                    + text[found.end() :]
                )
                del left[name]
        text = self._unasked(tool, text, values)
        if span := self._span(left):
            text = f"{text} {span}" if lang is Lang.EN else f"{span}的{text}" if looks_up else f"{span}{text}"
        elif looks_up and left and len(left) == len(values) and rng.random() < 0.7:
            first = left.pop(next(iter(left))).text
            text = f"{first}的{text}" if lang is Lang.ZH else f"{text} {rng.choice(('for', 'of', 'for'))} {first}"
        return text, left

    def _unasked(self, tool: ToolSpec, text: str, values: Mapping[str, Value]) -> str:
        """Drop what the description speaks of and the user does not: "the weather at a specified airport"."""
        lang, given = self._lang, _GIVEN[self._lang][0]
        for name in tool.parameters.get("properties") or {}:
            if name not in values:
                noun = "|".join(map(re.escape, self._nouns(tool, name)))
                of = f"{given}(?:{noun})的?" if lang is Lang.ZH else f"\\s(?:{_OF}) {given}(?:{noun})\\b"
                text = re.sub(of, "", text, flags=re.IGNORECASE) or text
        return re.sub(r"(?:指定|给定|特定)的?" if lang is Lang.ZH else r"\b(?:specified|given)\s+", "", text)

    def _span(self, left: dict[str, Value]) -> str:
        """Take two values that are the ends of something, and return how they are said together; "" without such."""
        for dates in (False, True):
            names = [name for name in left if (_DATES.search(words(name)) is not None) is dates]
            starts = [name for name in names if _START.search(words(name))]
            ends = [name for name in names if _END.search(words(name))]
            if starts and ends and self._rng.random() < 0.7:
                return self.pick("range").format(a=left.pop(starts[0]).text, b=left.pop(ends[0]).text)
        return ""

    def _nouns(self, tool: ToolSpec, name: str) -> list[str]:
        """Return the words for a parameter, the longest first."""
        said, spelled = self.label(tool, name), words(name)
        nouns = {said, spelled, *(_TAIL[self._lang].sub("", noun) for noun in (said, spelled))}
        if self._lang is Lang.EN:
            nouns |= {re.sub(r"^(?:\w+\s)?(?:name|id|code)s? (?:of|for) (?:the |an? )?", "", said)}
        return sorted(filter(None, nouns), key=len, reverse=True)

    def _spoken(self, tool: ToolSpec, name: str) -> str:
        nouns = self._nouns(tool, name)
        native = [noun for noun in nouns if not noun.isascii()] if self._lang is Lang.ZH else nouns
        return self._rng.choice(native or nouns)

    def _given(self, tool: ToolSpec, left: Mapping[str, Value]) -> list[str]:
        return [self.pick("given").format(k=self._spoken(tool, name), v=value.text) for name, value in left.items()]


def _head(text: str, lang: Lang) -> str:
    """Return what is looked up without what it is of; the whole text where nothing is left to go by."""
    if lang is Lang.ZH:
        head = text.rpartition("的")[2]
        return head if len(head) > 1 and head not in ("信息", "数据", "列表", "情况", "详情") else text
    head = re.split(rf"\s(?:{_OF}|based|using|with)\s", text)[0]
    return text if re.fullmatch(r"(?:(?:an?|the) )?(?:\w*list|set|number|details?|information|data)s?", head) else head


def _imperative(text: str) -> str:
    """Return "create a wallet" for "Creates a wallet"."""
    first, _, rest = text.partition(" ")
    first = first if first.isupper() else first.lower()
    if first.endswith("s") and not first.endswith(("ss", "us", "is")):
        first = first[:-1]
    return f"{first} {rest}".strip()
