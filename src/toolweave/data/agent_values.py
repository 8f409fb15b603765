"""Values for a tool's parameters, as its schema, its examples and its names suggest, with the words for them."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from toolweave.tools.simulate import example
from toolweave.types import Json, Lang

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# Where the words for a parameter end and its explanation begins.
_LABEL_END = re.compile(
    r"[，。；：（(,;:]|\.(?:\s|$)|\s(?:in the format|to be|used|for|that|which|such as|of the|of a)\b"
)
_LABEL_START = re.compile(
    r"^(?:(?:the|a|an|optional|specified|required)\s+)+|^(?:可选的?|(?:要|需要|想要|待)\S{1,2}的|指定的?|用户的)",
    re.IGNORECASE,
)
_LONGEST_LABEL = {Lang.ZH: 12, Lang.EN: 28}
_QUOTED = re.compile(r"['\"‘“「`]([^'\"’”」`，,]{1,24})['\"’”」`]")
_CHOICES = re.compile(
    r"支持|可选|可以是|取值|包括|例如|如|或|either|one of|support|options?|such as|e\.g\.|example|can be|or ",
    re.IGNORECASE,
)
_DATE_FORMAT = re.compile(r"y{4}([-/.年]?)m{2}[-/.月]?d{2}", re.IGNORECASE)
_ENDS = re.compile(r"\b(end|to|until|till|max|return|checkout)\b|结束|截止|终止|返回", re.IGNORECASE)
_DATE = re.compile(r"\b(date|day|birthday)\b|日期", re.IGNORECASE)
# Of these people ask for a few.
_LONG_UNITS = {"days", "weeks", "months", "years", "天", "周", "个月"}
_UNIT = {
    Lang.ZH: re.compile("小时|分钟|天|周|个月|公里|米|元|人"),
    Lang.EN: re.compile(r"\b(?:hours|minutes|days|weeks|months|years|people|km|meters)\b"),
}


class Value(NamedTuple):
    """An argument, and how a user says it."""

    value: Any
    text: str


@cache
def phrase_book() -> Json:
    """Return agent_phrases.yaml."""
    content: Json = yaml.safe_load(files("toolweave.data").joinpath("agent_phrases.yaml").read_text("utf-8"))
    return content


def words(name: str) -> str:
    """Return the words of an identifier, in lower case: `startDate` is "start date"."""
    return " ".join(_WORDS.findall(name)).lower() or name


def label(name: str, schema: Mapping[str, Any], lang: Lang) -> str:
    """Return what a user calls a parameter: the head of its description, or the words of its name."""
    text = str(schema.get("description") or "").strip()
    head = _LABEL_START.sub("", _LABEL_END.split(text)[0]).strip()
    fits = 0 < len(head) <= _LONGEST_LABEL[lang] and not (lang is Lang.ZH and head.isascii())
    return (
        (head if lang is Lang.ZH else head[0].lower() + head[1:] if head[1:2].islower() else head)
        if fits
        else words(name)
    )


def entry(kind: str, text: str) -> Json:
    """Return the first entry of a table of the phrase book that matches a text."""
    return next(each for each in phrase_book()[kind] if re.search(each["match"], text, re.IGNORECASE))


def draw(name: str, schema: object, lang: Lang, rng: random.Random, depth: int = 0) -> Value:
    """Return a value for a parameter of this name."""
    schema = schema if isinstance(schema, Mapping) else {}
    if "const" in schema:
        return _said(schema["const"], lang)
    if options := _options(schema):
        return _said(rng.choice(options), lang)
    for several in ("oneOf", "anyOf"):
        if schema.get(several):
            return draw(name, {**schema, **schema[several][0], several: None}, lang, rng, depth)
    kind = schema.get("type", "string")
    kind = next((each for each in kind if each != "null"), "string") if isinstance(kind, list) else kind
    if kind == "array" and depth < 3:
        size = max(int(schema.get("minItems", 1)), rng.choice((1, 1, 2, 3)))
        size = min(size, int(schema.get("maxItems", size)))
        items = [draw(name, schema.get("items") or {}, lang, rng, depth + 1) for _ in range(size)]
        distinct = list({item.text: item for item in items}.values())
        items = distinct if len(distinct) >= int(schema.get("minItems", 1)) else items
        return Value([item.value for item in items], ("、" if lang is Lang.ZH else " and ").join(i.text for i in items))
    if kind == "object" and depth < 3:
        properties = schema.get("properties") or {}
        wanted = [key for key in properties if key in schema.get("required", properties)]
        parts = {key: draw(key, properties[key], lang, rng, depth + 1) for key in wanted}
        said = ("，" if lang is Lang.ZH else ", ").join(
            f"{label(key, properties[key], lang)} {part.text}" for key, part in parts.items()
        )
        return Value({key: part.value for key, part in parts.items()}, said)
    if kind in ("integer", "number"):
        return _number(name, schema, lang, rng, whole=kind == "integer")
    if kind == "string":
        return _string(name, schema, lang, rng)
    return _said(example(schema, rng), lang)


def _options(schema: Mapping[str, Any]) -> list[Any]:
    """Return the values that the schema itself offers."""
    if schema.get("enum"):
        return list(schema["enum"])
    given = [*(schema.get("examples") or ()), *([schema["example"]] if "example" in schema else ())]
    text = str(schema.get("description") or "")
    if not given and schema.get("type", "string") == "string" and _CHOICES.search(text):
        quoted = [word for word in _QUOTED.findall(text) if not _DATE_FORMAT.search(word)]
        return list(dict.fromkeys(quoted)) if len(quoted) > 1 else []
    return given if len(given) > 1 else []


def _said(value: Any, lang: Lang) -> Value:
    if isinstance(value, bool):
        return Value(value, {Lang.ZH: ("否", "是"), Lang.EN: ("no", "yes")}[lang][value])
    return Value(value, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _number(name: str, schema: Mapping[str, Any], lang: Lang, rng: random.Random, *, whole: bool) -> Value:
    text = f"{words(name)} {schema.get('description') or ''}"
    unit = _UNIT[lang].search(text)
    low, high = 1, rng.choice((10, 72) if unit else (10, 100, 1000))
    if unit and unit[0] in _LONG_UNITS:
        high = 14
    if re.search(r"\byear\b|年份", text):
        low, high = 2000, 2026
    if re.search(r"\b(lat|latitude|lon|lng|longitude)\b|纬度|经度", text):
        low, high = -60, 60
    low = schema.get("minimum", min(low, schema.get("maximum", low)))
    high = schema.get("maximum", max(high, low))
    least, most = math.ceil(low), math.floor(high)
    fine = not whole and (least > most or (rng.random() < 0.5 and most > least))
    value = min(max(round(rng.uniform(low, high), 2), low), high) if fine else rng.randint(least, max(least, most))
    measured = f"{value}{' ' * (lang is Lang.EN)}{unit[0]}" if unit and rng.random() < 0.8 else str(value)
    return Value(value, measured)


def _string(name: str, schema: Mapping[str, Any], lang: Lang, rng: random.Random) -> Value:
    text = f"{words(name)} | {schema.get('description') or ''}"
    shape = schema.get("format")
    pattern = _DATE_FORMAT.search(text)
    if shape == "date" or pattern or (shape is None and _DATE.search(text)):
        return _date(pattern[1] if pattern else "-", bool(_ENDS.search(text)), lang, rng)
    if (
        shape in ("date-time", "time", "uuid", "ipv4", "uri", "url", "email")
        or "minLength" in schema
        or "maxLength" in schema
    ):
        if shape == "time":
            return _said(f"{rng.randrange(24):02}:{rng.choice((0, 15, 30, 45)):02}:00", lang)
        return _said(example(schema, rng), lang)
    # The name says it best; a description may speak of other things too.
    found = entry("values", words(name))
    found = found if found["match"] else entry("values", text)
    bank = found[lang]
    if not bank:
        prefix = rng.choice(("", "", "A", "NO", f"{words(name).split()[0].upper()}-"))
        return _said(f"{prefix}{rng.randrange(100, 100_000)}", lang)
    value, *said = [chosen] if isinstance(chosen := rng.choice(bank), str) else chosen
    return Value(value, rng.choice(said)) if said else _said(value, lang)


def _date(separator: str, ends: bool, lang: Lang, rng: random.Random) -> Value:
    day = date(2024, 1, 1) + timedelta(days=rng.randrange(400) + 400 * ends)
    value = day.strftime("%Y年%m月%d" if separator == "年" else f"%Y{separator}%m{separator}%d")
    spoken = f"{day.year}年{day.month}月{day.day}日" if lang is Lang.ZH else f"{day:%B} {day.day}, {day.year}"
    return Value(value, rng.choice((value, spoken)))
