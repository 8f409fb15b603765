"""Reading a request back: which tools its prompt shows, and what happened in the turn so far.

The wording stays with the dialect; here are the parts that any wording needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from toolweave.dialects.base import Prompt
from toolweave.types import ToolSpec

_DECODER = json.JSONDecoder()


class Exchange(NamedTuple):
    """A reply that made a call, as it stands in the request, and the observation after it."""

    reply: str
    observation: str


class Reading(NamedTuple):
    """A request taken apart: the prompt that started the turn, and the calls made since.

    Starting with `prompt` and advancing over `trace` gives the request again, byte for byte.
    """

    prompt: Prompt
    trace: tuple[Exchange, ...]


class Found(NamedTuple):
    """A tool block in a system message, with the text on either side."""

    before: str
    tools: tuple[ToolSpec, ...]
    after: str


def find_tools(text: str, block: str, lines: Sequence[str]) -> Iterator[Found]:
    """Yield each way to read a tool block in `text`.

    `block` is its wording with `{lines}` and then `{names}`, `lines` are the wordings a tool's line may
    have, with `{name}`, `{description}` and `{parameters}`.
    """
    head, rest = block.split("{lines}")
    middle, tail = rest.split("{names}")
    for start in occurrences(text, head):
        for end in occurrences(text, middle, start + len(head)):
            names_at = end + len(middle)
            names_end = text.find(tail, names_at)
            if names_end < 0:
                break
            names = text[names_at:names_end]
            tools = _read_lines(text[start + len(head) : end], names.split(",") if names else [], lines)
            if tools is not None:
                yield Found(text[:start], tools, text[names_end + len(tail) :])


def split_trace(text: str, opening: str, closing: str) -> tuple[str, tuple[Exchange, ...]]:
    """Split `words opening observation closing words opening …` into its exchanges; return them after the rest.

    The rest is what follows the last `closing`, or the whole text if an observation does not close.
    """
    exchanges: list[Exchange] = []
    at = 0
    while (begin := text.find(opening, at)) >= 0:
        end = text.find(closing, begin + len(opening))
        if end < 0:
            return text, ()
        exchanges.append(Exchange(text[at:begin], text[begin + len(opening) : end]))
        at = end + len(closing)
    return text[at:], tuple(exchanges)


def _read_lines(text: str, names: Sequence[str], lines: Sequence[str]) -> tuple[ToolSpec, ...] | None:
    """Read the lines of the named tools, a blank line between them; None if that is not what `text` is."""
    if not names:
        return None if text else ()
    name, *others = names
    for line in lines:
        head, rest = line.replace("{name}", name).split("{description}")
        middle, tail = rest.split("{parameters}")
        if not text.startswith(head):
            continue
        for end in occurrences(text, middle, len(head)):
            try:
                parameters, after = _DECODER.raw_decode(text, end + len(middle))
            except (ValueError, RecursionError):
                continue
            if not isinstance(parameters, dict) or not text.startswith(tail, after):
                continue
            after += len(tail)
            if others and not text.startswith("\n\n", after):
                continue
            following = _read_lines(text[after + 2 :] if others else text[after:], others, lines)
            if following is not None:
                return (ToolSpec(name, text[len(head) : end], parameters), *following)
    return None


def occurrences(text: str, part: str, start: int = 0) -> Iterator[int]:
    """Yield where `part` begins in `text`, overlapping ones too."""
    at = text.find(part, start)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)
