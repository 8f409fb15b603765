"""The tools of one agent, what it may do with them, and running a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from toolweave.agents.arguments import ArgumentCheck
from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool, Effect
from toolweave.types import InvalidToolCall, ToolCall, ToolSpec


@dataclass(frozen=True, slots=True)
class Policy:
    """What an agent may do, whatever the model was talked into by a user or an observation."""

    allowed: frozenset[str] | None = None
    """Names of the tools it may use; None for all it was given. Others are neither offered nor run."""
    confirm: Callable[[ToolCall], bool] | None = None
    """Asks the user about a call of a dangerous tool. Without it, such calls are refused."""

    def refusal(self, tool: BaseTool, call: ToolCall) -> str | None:
        """Return why the call must not run; None if it may."""
        if tool.effect is not Effect.DANGEROUS:
            return None
        if self.confirm is None:
            return "this tool needs the user's consent, and there is nobody to ask"
        return None if self.confirm(call) else "the user did not allow this call"


class OutcomeKind(StrEnum):
    """How a call ended."""

    DONE = "done"
    FAILED = "failed"
    """The tool ran and failed, or the policy refused."""
    INVALID = "invalid"
    """The call was malformed, unknown, or its arguments did not fit: the model can mend it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: the tool's result, or what went wrong."""

    kind: OutcomeKind
    text: str


class Toolbox:
    """The tools of one agent by name; nothing outside it can be called."""

    def __init__(self, tools: Iterable[BaseTool], policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        allowed = self.policy.allowed
        self._tools = {tool.name: tool for tool in tools if allowed is None or tool.name in allowed}
        self.specs: tuple[ToolSpec, ...] = tuple(tool.spec() for tool in self._tools.values())
        self._checks = {spec.name: ArgumentCheck(spec.parameters) for spec in self.specs}

    def may_run_beside(self, call: ToolCall | InvalidToolCall) -> bool:
        """Tell whether the call changes nothing, so that it can run beside others."""
        tool = self._tools.get(call.name)
        return tool is None or tool.effect is Effect.READ

    def run(self, call: ToolCall | InvalidToolCall, kwargs: Mapping[str, Any]) -> Outcome:
        """Check and run a call; `kwargs` go to the tool. Never raises: whatever a tool does is news for the model."""
        tool = self._tools.get(call.name)
        if tool is None:
            return Outcome(OutcomeKind.INVALID, f"'{call.name}' is not a tool. Valid names: {self._names()}")
        if isinstance(call, InvalidToolCall):
            return Outcome(OutcomeKind.INVALID, call.reason)
        try:
            arguments = self._checks[call.name](call.arguments)
        except ToolError as error:
            return Outcome(OutcomeKind.INVALID, str(error))
        try:
            if refusal := self.policy.refusal(tool, call):
                return Outcome(OutcomeKind.FAILED, refusal)
            return Outcome(OutcomeKind.DONE, str(tool.call(json.dumps(arguments, ensure_ascii=False), **kwargs)))
        except Exception as error:  # A tool is foreign code.
            return Outcome(OutcomeKind.FAILED, str(error) or type(error).__name__)

    def _names(self) -> str:
        return ", ".join(self._tools) or "-"
