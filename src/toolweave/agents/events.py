"""What happens on a visit, as typed events, and the limits that end one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from toolweave.errors import ToolweaveError
from toolweave.knowledge import Passage
from toolweave.models.interface import STOPPED
from toolweave.types import InvalidToolCall, Lang, ToolCall


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of what the model says."""

    text: str

    @property
    def visible(self) -> str:
        """What the user sees of this event; joined over a visit, the transcript."""
        return self.text


@dataclass(frozen=True, slots=True)
class Cited:
    """The passages of the agent's knowledge that the model was shown, the best first."""

    passages: tuple[Passage, ...]
    visible: str = ""


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The model made a call, which is about to run. Its text has been seen already."""

    call: ToolCall | InvalidToolCall
    visible: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """A call returned, or failed (`error`).

    `visible` is the dialect's frame; of several calls in one reply, the last has the frame around all observations.
    """

    call: ToolCall | InvalidToolCall
    observation: str
    error: bool
    visible: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The visit is over: the model answered without a call. `finish_reason` is the server's (`stop`, `length`, …)."""

    text: str
    finish_reason: str = STOPPED
    visible: str = ""


class LimitReason(StrEnum):
    """Why a visit was ended."""

    IDENTICAL_CALL = "identical_call"
    INVALID_CALLS = "invalid_calls"
    MODEL_CALLS = "model_calls"
    TOOL_CALLS = "tool_calls"
    TIME = "time"
    TOKENS = "tokens"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class LimitReached:
    """The visit was ended; `text` says so to the user."""

    reason: LimitReason
    text: str

    @property
    def visible(self) -> str:
        """What the user sees of this event."""
        return f"\n{self.text}"


@dataclass(frozen=True, slots=True)
class Failed:
    """The model could not be asked; the error itself is raised next. `text` says what is wrong and how to mend it."""

    text: str
    visible: str = ""


Event = TextDelta | Cited | CallStarted | Observed | Answered | LimitReached | Failed


@dataclass(frozen=True, slots=True)
class Limits:
    """When a visit is ended. None is no limit."""

    max_calls: int = 10
    """How often the model is asked."""
    max_identical_calls: int | None = 1
    """How often one call (name and arguments) runs."""
    max_invalid_calls: int | None = 1
    """How many malformed or unknown calls in a row are sent back to the model."""
    max_tool_calls: int | None = None
    """How many calls run."""
    max_seconds: float | None = None
    """How long the visit takes, models and tools together."""
    max_tokens: int | None = None
    """How much the model writes in all its replies."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if (value is None and limit.name == "max_calls") or (value is not None and value <= 0):
                raise ToolweaveError(f"{limit.name} must be at least 1")


_SENTENCES = {
    (LimitReason.IDENTICAL_CALL, Lang.ZH): "同样的工具调用已经执行过，不再重复。它的结果是：{observation}",
    (LimitReason.IDENTICAL_CALL, Lang.EN): (
        "The same tool call has been made before, so it is not repeated. Its result was: {observation}"
    ),
    (LimitReason.INVALID_CALLS, Lang.ZH): "抱歉，模型多次写出无效的工具调用，任务没有完成。原因是：{observation}",
    (LimitReason.INVALID_CALLS, Lang.EN): (
        "Sorry, the model kept writing tool calls that are not valid, and the task is not done. Reason: {observation}"
    ),
    (LimitReason.MODEL_CALLS, Lang.ZH): (
        "抱歉，已达到{max_calls}次模型调用的上限，任务没有完成。最后的结果是：{observation}"
    ),
    (LimitReason.MODEL_CALLS, Lang.EN): (
        "Sorry, the limit of {max_calls} model calls is reached and the task is not done. "
        "The last result was: {observation}"
    ),
    (LimitReason.TOOL_CALLS, Lang.ZH): (
        "抱歉，已达到{max_tool_calls}次工具调用的上限，任务没有完成。最后的结果是：{observation}"
    ),
    (LimitReason.TOOL_CALLS, Lang.EN): (
        "Sorry, the limit of {max_tool_calls} tool calls is reached and the task is not done. "
        "The last result was: {observation}"
    ),
    (LimitReason.TIME, Lang.ZH): "抱歉，{max_seconds:g}秒的时间用完了，任务没有完成。",
    (LimitReason.TIME, Lang.EN): "Sorry, the time of {max_seconds:g} seconds is up and the task is not done.",
    (LimitReason.TOKENS, Lang.ZH): "抱歉，模型的输出达到了{max_tokens}个词元的上限，任务没有完成。",
    (LimitReason.TOKENS, Lang.EN): (
        "Sorry, the model has written {max_tokens} tokens, which is the limit, and the task is not done."
    ),
    (LimitReason.CANCELLED, Lang.ZH): "已取消。",
    (LimitReason.CANCELLED, Lang.EN): "Cancelled.",
}


def limit_reached(reason: LimitReason, limits: Limits, lang: Lang, observation: str = "") -> LimitReached:
    """Return the event that ends a visit, with a sentence for the user; `observation` is the last result."""
    values = {limit.name: getattr(limits, limit.name) for limit in fields(limits)}
    return LimitReached(reason, _SENTENCES[reason, lang].format(**values, observation=observation))
