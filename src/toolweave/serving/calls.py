"""OpenAI tool calls out of a reply in any dialect, while it comes.

The dialect's parser has the last word. A call that is spelled just as the dialect spells it goes out as it comes, or,
where it lies in a JSON object, once that is closed; anything else waits for the end of the reply.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import from_json

from toolweave.dialects import Dialect
from toolweave.serving.grammar import CallFrame, is_json
from toolweave.types import InvalidToolCall, Json, Lang, ToolCall

_BLANKS_AND_MARKUP = " \t\r\n>*`"
# Longer than any call word, name and marker: text behind a mark that is no call after so much is just text.
_PATIENCE = 256
_THINKS, _THOUGHT = "<think>", "</think>"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A part of call number `index`: the first one has its id and name, the others more of the arguments."""

    index: int
    arguments: str
    name: str | None = None
    id: str | None = None

    def to_json(self) -> Json:
        """Return the part as OpenAI streams it."""
        function: Json = {"arguments": self.arguments}
        if self.name is None:
            return {"index": self.index, "function": function}
        return {"index": self.index, "id": self.id, "type": "function", "function": {"name": self.name, **function}}


@dataclass(frozen=True, slots=True)
class ReplyDelta:
    """What a piece of a reply adds: content for the user, and parts of calls."""

    content: str = ""
    calls: tuple[CallDelta, ...] = ()


class CallStream:
    """Takes one reply apart; `called` tells whether a call has gone out."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._frames = [CallFrame.of(dialect, lang) for lang in Lang]
        words = {line.strip() for frame in self._frames for line in frame.head.splitlines() if line.strip()}
        self._marks = tuple(sorted(word.rstrip(":") for word in words if not is_json(word)))
        # A call that is JSON as a whole lies between tags, which may stand anywhere in a line.
        self._tagged = is_json(self._frames[0].head.splitlines()[-1])
        self._text = ""
        self._content = ""  # what of it went out as content
        self._scanned = 0  # up to here there is no call
        # Where the answer has a mark of its own, only the end tells what is content.
        self._streams = dialect.answer_completion("a") == "a"
        self._thinking = dialect.parse(f"{_THINKS}a{_THOUGHT}b").text == "b"
        self._spoken = 0  # here begins what the model says aloud
        self._open: _OpenCall | None = None
        self._started = 0

    @property
    def called(self) -> bool:
        """Whether a call has gone out."""
        return self._started > 0

    def push(self, text: str) -> ReplyDelta:
        """Take more of the reply."""
        self._text += text
        if self._thinks():
            return ReplyDelta()
        if self._open or self._started:
            return ReplyDelta(calls=tuple(self._advance(self._scanned)))
        mark = self._mark()
        end = len(self._text) - self._held() if mark is None else mark
        content = self._more(self._text[self._spoken : end]) if self._streams else ""
        return ReplyDelta(content, () if mark is None else tuple(self._advance(mark)))

    def finish(self) -> ReplyDelta:
        """Take the end of the reply: what was held back, as the dialect's parser reads it."""
        reply = self._dialect.parse(self._text)
        calls = [call for call in reply.calls if call.name]
        deltas: list[CallDelta] = []
        if self._open is not None and len(calls) >= self._started:
            # It broke off, or is no JSON: the client gets it as the model wrote it.
            deltas += self._open.rest(calls[self._started - 1].raw)
        for call in calls[self._started :]:
            deltas += _whole(self._started, call)
            self._started += 1
        # A call without a name is nothing to run: it is what the model said.
        nameless = reply.calls and not self._started
        return ReplyDelta(self._more(self._text if nameless else reply.text), tuple(deltas))

    def _thinks(self) -> bool:
        """Whether the model still thinks, which it may do before it speaks."""
        if self._thinking:
            opened = self._text.lstrip()
            end = self._text.find(_THOUGHT)
            if opened.startswith(_THINKS) and end >= 0:
                self._spoken = self._scanned = end + len(_THOUGHT)
                self._thinking = False
            elif not opened.startswith(_THINKS) and not _THINKS.startswith(opened):
                self._thinking = False
        return self._thinking

    def _mark(self) -> int | None:
        """Return where a call may begin: at a mark that opens a line."""
        while True:
            found = [at for mark in self._marks if (at := self._line_start(mark)) is not None]
            if not found:
                return None
            first = min(found)
            if len(self._text) - first < _PATIENCE or self._dialect.parse(self._text).calls:
                return first
            self._scanned = first + 1

    def _line_start(self, mark: str) -> int | None:
        """Return where the line begins that this mark opens; of a tag, where it begins itself."""
        at = self._text.find(mark, self._scanned)
        while at >= 0 and not self._tagged:
            line = self._text.rfind("\n", 0, at) + 1
            if not self._text[line:at].strip(_BLANKS_AND_MARKUP):
                return line
            at = self._text.find(mark, at + 1)
        return at if at >= 0 else None

    def _held(self) -> int:
        """Return how many characters at the end may still turn out to belong to a call, or to be blanks at the end."""
        if self._tagged:
            last = self._text.rfind("<")
            line = self._text[last:] if last >= 0 else ""
            bare = line or "\n"
        else:
            line = self._text[self._text.rfind("\n") + 1 :]
            bare = line.lstrip(_BLANKS_AND_MARKUP)
        if any(mark.startswith(bare) for mark in self._marks):
            kept = self._text[: len(self._text) - len(line)]
        else:
            kept = self._text
        return len(self._text) - len(kept.rstrip(_BLANKS_AND_MARKUP))

    def _more(self, content: str) -> str:
        """Return what of the content has not gone out, without blanks around the whole of it."""
        content, before = content.strip(), self._content
        if not content.startswith(before):
            return ""
        self._content = content
        return content[len(before) :]

    def _advance(self, at: int) -> list[CallDelta]:
        """Return what can go out of the calls from `at` on."""
        deltas: list[CallDelta] = []
        while True:
            if self._open is None:
                found = self._begin(at)
                if found is None:
                    return deltas
                name, start = found
                self._open = _OpenCall(self._started, start, "}" if self._tagged else None)
                opened = self._open.push(self._text)
                if not self._open.sent:
                    # Nothing is promised before it is clear that the arguments are JSON.
                    self._open = None
                    return deltas
                deltas.append(CallDelta(self._started, "", name, _new_id()))
                self._started += 1
                deltas += opened
            else:
                deltas += self._open.push(self._text)
            if self._open.end is None:
                return deltas
            at = self._scanned = self._open.end
            self._open = None

    def _begin(self, at: int) -> tuple[str, int] | None:
        """Return the name of the call that is spelled out at `at`, and where its arguments begin."""
        for frame in self._frames:
            rest = self._text[at:].lstrip().removeprefix(frame.tail.strip()).lstrip()
            start = len(self._text) - len(rest)
            # The call word may be missing or, as in prose, stand alone; the trigger may not.
            for head in (frame.head, frame.head[frame.head.rindex(frame.trigger) :]):
                if rest.startswith(head):
                    name, middle, _ = rest[len(head) :].partition(frame.middle)
                    # In JSON a name with any of these is another one than it looks.
                    plain = not (self._tagged and set(name) & set('"\\'))
                    if middle and name.strip() == name and "\n" not in name and name and plain:
                        return name, start + len(head) + len(name) + len(middle)
        return None


class _OpenCall:
    """A call whose arguments begin at `start` of the reply; `end` is where they end, once they do.

    With `closing`, nothing is certain before the arguments are complete and this follows.
    """

    def __init__(self, index: int, start: int, closing: str | None) -> None:
        self.index = index
        self.start = start
        self.closing = closing
        self.sent = ""
        self.end: int | None = None

    def push(self, text: str) -> list[CallDelta]:
        """Return the arguments that are certain now: JSON so far, or nothing more."""
        arguments = text[self.start :]
        if not arguments.startswith(('{"', "{}")):
            return []
        try:
            _, length = _DECODER.raw_decode(arguments)
        except (ValueError, RecursionError):
            if self.closing is not None:
                return []
            try:
                from_json(arguments, allow_partial=True)
            except ValueError:
                return []
        else:
            if self.closing is not None and not arguments[length:].startswith(self.closing):
                return []
            arguments = arguments[:length]
            self.end = self.start + length
        return self._send(arguments)

    def rest(self, raw: str) -> list[CallDelta]:
        """Return the end of arguments that broke off."""
        return self._send(raw) if raw.startswith(self.sent) else []

    def _send(self, arguments: str) -> list[CallDelta]:
        new, self.sent = arguments[len(self.sent) :], arguments
        return [CallDelta(self.index, new)] if new else []


def _whole(index: int, call: ToolCall | InvalidToolCall) -> Sequence[CallDelta]:
    return [CallDelta(index, call_arguments(call), call.name, _new_id())]


def call_arguments(call: ToolCall | InvalidToolCall) -> str:
    """Return the arguments as JSON text: the model's own where they are JSON, and for a malformed call as they are."""
    if isinstance(call, InvalidToolCall):
        return call.raw
    try:
        own = json.loads(call.raw)
    except (ValueError, RecursionError):
        own = None
    return call.raw if own == call.arguments else call.arguments_json()


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
