"""Asking whoever looks at a conversation before a tool runs that may destroy something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from threading import Condition, Event

from toolweave.serving.calls import call_arguments
from toolweave.types import ToolCall

_GLANCE = 0.5  # seconds between two looks at whether the visit was stopped


class Answer(StrEnum):
    """What a user says to a call."""

    ONCE = "once"
    ALWAYS = "always"
    """This tool may run as often as it likes in this conversation."""
    NO = "no"


@dataclass(slots=True)
class Question:
    """A call that waits for the user's word."""

    tool: str
    arguments: str
    answer: Answer | None = None


class Consent:
    """The questions of one conversation, one at a time; `told` is called whenever there is a new one, or none left."""

    def __init__(self, told: Callable[[], None]) -> None:
        self.question: Question | None = None
        self._allowed: set[str] = set()
        self._changed = Condition()
        self._told = told

    def ask(self, call: ToolCall, cancel: Event) -> bool:
        """Wait for the user's word on a call and return whether it may run; a visit that is stopped does not wait."""
        if call.name in self._allowed:
            return True
        self.question = mine = Question(call.name, call_arguments(call))
        self._told()
        with self._changed:
            while mine.answer is None and not cancel.is_set():
                self._changed.wait(_GLANCE)
            if self.question is mine:
                self.question = None
        self._told()
        if mine.answer is Answer.ALWAYS:
            self._allowed.add(call.name)
        return mine.answer in (Answer.ONCE, Answer.ALWAYS) and not cancel.is_set()

    def answer(self, answer: Answer) -> None:
        """Give the user's word; without a question it is of no account."""
        with self._changed:
            if self.question is not None:
                self.question.answer = answer
            self._changed.notify_all()
