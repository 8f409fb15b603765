"""Reading `Action:` / `Action Input:` calls out of whatever a small model writes."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from typing import Any

from toolweave.types import InvalidToolCall, Reply, ToolCall

# A marker opens a line or follows the call word, so prose that mentions "Action:" is not a call.
# Possessive quantifiers and the lookbehind keep the search linear in runs of blanks, which small models do write.
_CALL = (
    r"(?:(?<=\n)|^{words})[ \t>*`]*+Action[ \t]*+[:：](?P<name>[^\n]*?)"
    r"(?:\n\s*+|(?<![ \t])[ \t]++)[*`]*+Action[ \t]*+Input[ \t]*+[:：][*]*+"
)
_FENCE = re.compile(r"^\s*```(?:json|python)?[ \t]*\n?", re.IGNORECASE)
_CHINESE_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "：": ":", "，": ","})
# Python literals of strings without quotes or escapes, numbers, lists and dicts: JSON, once the quotes are turned.
_JSON_BUT_QUOTES = re.compile(r"""(?:'[^'"\\]*+'|[\s{}\[\],:.\d-]++)*+""")
_DECODER = json.JSONDecoder()


def parse_action_reply(reply: str, call_words: tuple[str, ...]) -> Reply:
    """Split a reply into text and calls.

    Accepts multi-line JSON, text after the arguments, several calls, Chinese colons and quotes,
    single-quoted Python dicts and code fences. What cannot be read becomes an `InvalidToolCall`
    that keeps the raw text. With calls present, `Reply.text` is what precedes the first one:
    an `Answer:` written before its observation exists is an invention and is left out.
    """
    if "Action" not in reply:
        return Reply(reply.strip())  # the marker's search would take most of the time
    marker = _marker(call_words)
    calls: list[ToolCall | InvalidToolCall] = []
    match = first = marker.search(reply)
    while match:
        name, start = _clean_name(match["name"]), match.end()
        following = marker.search(reply, start)
        call = read_call(name, reply[start : following.start() if following else None])
        if following and isinstance(call, InvalidToolCall):
            # Perhaps that marker is text inside the arguments, and no second call.
            whole = read_call(name, reply[start:])
            if isinstance(whole, ToolCall):
                call, following = whole, marker.search(reply, reply.index(whole.raw, start) + len(whole.raw))
        calls.append(call)
        match = following
    return Reply((reply[: first.start()] if first else reply).strip(), tuple(calls))


@cache
def _marker(call_words: tuple[str, ...]) -> re.Pattern[str]:
    words = "".join(rf"|{re.escape(word)}[ \t]*+\n?" for word in call_words)
    return re.compile(_CALL.format(words=words))


def read_call(name: str, text: str) -> ToolCall | InvalidToolCall:
    """Read the arguments at the start of `text`; anything after the closing brace is ignored."""
    body = _FENCE.sub("", text).lstrip()
    raw = body.rstrip("\n")
    if not raw or raw.strip("`").strip() == "":
        return ToolCall(name, {}, raw="")
    if body[0] not in "{｛":
        return InvalidToolCall(name, raw, "the arguments are not a JSON object")
    found = _read_object(body)
    return ToolCall(name, *found) if found else InvalidToolCall(name, raw, "the arguments are not valid JSON")


def read_object(text: str) -> tuple[dict[str, Any], str] | None:
    """Return the JSON object (or Python dict) that the text begins with, and how it is written; None without one."""
    return _read_object(_FENCE.sub("", text).lstrip())


def _read_object(body: str) -> tuple[dict[str, Any], str] | None:
    for spell in (str, _plain_quotes):
        candidate = spell(body)
        found = _read_json(candidate) or _read_python(candidate)
        if found is not None:
            value, length = found
            return value, body[:length]
    return None


def _plain_quotes(text: str) -> str:
    return text.translate(_CHINESE_QUOTES)


def _read_json(text: str) -> tuple[dict[str, Any], int] | None:
    if text.startswith("{'"):
        return None
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return (value, end) if isinstance(value, dict) else None


def _read_python(text: str) -> tuple[dict[str, Any], int] | None:
    """Read a Python dict literal (`{'a': True}`), as ms_agent rows have them."""
    simple = _JSON_BUT_QUOTES.match(text)
    if simple and (found := _read_json(simple[0].replace("'", '"'))):
        return found  # as literal_eval reads it, at a fifth of the time
    end = _closing_brace(text)
    if end is None:
        return None
    try:
        value = ast.literal_eval(text[:end])
        # Only what JSON can say goes to a tool: a tuple becomes a list, a set is refused.
        plain = json.loads(json.dumps(value, allow_nan=False))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    return (plain, end) if isinstance(value, dict) and all(isinstance(key, str) for key in value) else None


def _closing_brace(text: str) -> int | None:
    depth, quote, escaped = 0, "", False
    for index, char in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return index + 1
    return None


def _clean_name(name: str) -> str:
    return name.strip().strip("`'\"“”[]* ")
