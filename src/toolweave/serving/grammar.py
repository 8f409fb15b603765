"""The grammars of constrained replies: free text, then only calls that a tool can take, or JSON by a schema.

How a call is spelled comes from the dialect alone: its frame is cut out of a call that the dialect wrote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from toolweave.dialects import CallsPerReply, Dialect
from toolweave.errors import ToolweaveError
from toolweave.types import Json, Lang, ToolCall, ToolSpec

# As json.dumps writes it, which is what models of this package learn.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_PROBE_NAME, _PROBE_ARGUMENTS = "probe_name", {"probe": 0}


class GuideError(ToolweaveError):
    """A schema or grammar that cannot be followed."""


@dataclass(frozen=True, slots=True)
class CallFrame:
    """How a dialect spells a call: head, name, middle, arguments, tail up to the stop word.

    Where a reply may make several, `between` stands from the arguments of one to the name of the next.
    """

    head: str
    middle: str
    tail: str
    between: str = ""

    @classmethod
    def of(cls, dialect: Dialect, lang: Lang) -> CallFrame:
        """Cut the frame out of a call that the dialect wrote."""
        probe, arguments = ToolCall(_PROBE_NAME, _PROBE_ARGUMENTS), json.dumps(_PROBE_ARGUMENTS)
        head, rest = dialect.call_completion(probe, lang).split(_PROBE_NAME, 1)
        middle, tail = rest.split(arguments, 1)
        between = ""
        if dialect.calls_per_reply is CallsPerReply.MANY:
            _, _, rest = dialect.calls_completion([probe, probe], lang).partition(arguments)
            between, _, _ = rest.partition(_PROBE_NAME)
        return cls(head, middle, dialect.visible(tail), between)

    @property
    def trigger(self) -> str:
        """The last words before the name, without JSON: from here on a reply is a call."""
        return [line for line in self.head.splitlines() if line.strip() and not is_json(line)][-1].rstrip()


def is_json(line: str) -> bool:
    """Tell whether a line of a call's spelling is part of its JSON."""
    return bool(set(line) & set('{}"'))


def call_grammar(frame: CallFrame, tools: Sequence[ToolSpec], *, forced: bool) -> str:
    """Return the grammar of a reply: free text, and, once it begins a call, only valid calls of the tools.

    `forced` leaves out the free text. Raises GuideError for a tool whose parameters are not a schema of objects.
    """
    rest = frame.head[frame.head.rindex(frame.trigger) + len(frame.trigger) :]
    calls = " | ".join(
        f"{_quoted(tool.name)} {_quoted(frame.middle)} %json {json.dumps(_arguments(tool))}" for tool in tools
    )
    more = f"({_quoted(frame.between)} one)*" if frame.between else ""
    rules = f"call: {_quoted(rest)} one {more} {_quoted(frame.tail)}\none: {calls}\n"
    if forced:
        return f"%llguidance {{}}\nstart: {_quoted(frame.head.removesuffix(rest))} call\n{rules}"
    if frame.trigger.endswith(":"):
        # A word, which prose may hold as well, unless a line begins with it, after blanks or markup. Readers of calls
        # forgive blanks before the colon, and Chinese ones.
        begun = rf"((?s:.*)\n)?[ \t*>`]*{_regex(frame.trigger.removesuffix(':'))}[ \t]*[:：]"
    else:
        begun = f"(?s:.*){_regex(frame.trigger)}"
    return f"%llguidance {{}}\nstart: free | begun call\nfree: TEXT\nbegun[lazy]: /{begun}/\nTEXT: /(?s:.*)/\n{rules}"


def json_grammar(schema: Json) -> str:
    """Return the grammar of a reply that is JSON by this schema."""
    return f"%llguidance {{}}\nstart: %json {json.dumps({**schema, 'x-guidance': _SPACING})}\n"


def _arguments(tool: ToolSpec) -> Json:
    schema = {"type": "object", **tool.parameters}
    if schema["type"] != "object":
        raise GuideError(f"the parameters of {tool.name} are a schema of {schema['type']}, not of an object")
    # A key that the tool does not know is never right, whatever the schema leaves open.
    return {"additionalProperties": False, **schema, "x-guidance": _SPACING}


def _quoted(text: str) -> str:
    return json.dumps(text) if text else ""


def _regex(text: str) -> str:
    return "".join(f"\\{char}" if char in r"\^$.|?*+()[]{}/<>" else char for char in text)
