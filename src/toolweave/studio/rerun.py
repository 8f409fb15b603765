"""The beginning of a turn once more: what the model said and its tools returned then, up to where it goes on anew."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from threading import Lock
from typing import Any

from toolweave.errors import ToolError, ToolweaveError
from toolweave.models.interface import STOPPED, Model
from toolweave.studio.conversation import Step, Turn
from toolweave.tools.base import BaseTool, Effect
from toolweave.traces.cases import cases
from toolweave.traces.store import TraceStore
from toolweave.types import Message, ToolSpec


class Rerun:
    """Replies that are said again, and the steps that they call for; with the next reply the turn goes on anew.

    A step that failed then is tried again, but for one that may destroy something.
    """

    def __init__(self, replies: Sequence[str], steps: Sequence[Step]) -> None:
        self.over = not replies
        self._replies = list(replies)
        self._steps = [step for step in steps if step.observation is not None and not step.error]
        self._lock = Lock()

    @classmethod
    def of(cls, turn: Turn, steps: int, store: TraceStore) -> Rerun:
        """Return what plays a turn up to its step number `steps`, counted from 1, and those of the same reply.

        Raises ToolweaveError when the turn is not recorded.
        """
        if not turn.trace:
            raise ToolweaveError("this turn is not among the traces", "begin from its question")
        by_id = {case.trace.id: case for case in cases(store.visit(turn.trace))}
        chain, at = [], turn.trace
        while at in by_id and by_id[at].trace.turn == by_id[turn.trace].trace.turn:
            chain.append(by_id[at])
            at = by_id[at].trace.previous or ""
        made = [part for part in turn.parts if isinstance(part, Step)]
        return cls([case.trace.reply.text for case in reversed(chain) if len(case.earlier) < steps], made)

    def model(self, model: Model) -> Model:
        """Return a model that says what was said then, and after that what `model` says."""
        return _Model(self, model)

    def tool(self, tool: BaseTool) -> BaseTool:
        """Return a tool that returns what it returned then, and after that runs."""
        return _Tool(self, tool)

    def next_reply(self) -> str | None:
        """Return what the model said next, None when it is its own turn again."""
        self.over = not self._replies
        return None if self.over else self._replies.pop(0)

    def observation(self, tool: str, params: str) -> str | None:
        """Return what a call returned then, None for one that has to run."""
        with self._lock:
            step = next((step for step in self._steps if step.tool == tool and _same(step.arguments, params)), None)
            if self.over or step is None:
                return None
            self._steps.remove(step)
            return step.observation


class _Model:
    def __init__(self, rerun: Rerun, model: Model) -> None:
        self.model = str(getattr(model, "model", ""))
        self._rerun = rerun
        self._model = model

    def complete(
        self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec] = ()
    ) -> Generator[str, None, str]:
        """Yield the reply of then whole, or that of the model in pieces."""
        said = self._rerun.next_reply()
        if said is not None:
            yield said
            return STOPPED
        deltas = self._model.complete(messages, stop, tools)
        if isinstance(deltas, Generator):
            return (yield from deltas) or STOPPED
        yield from deltas
        return STOPPED


class _Tool(BaseTool):
    def __init__(self, rerun: Rerun, tool: BaseTool) -> None:
        super().__init__(tool.cfg)
        self.name, self.description, self.parameters = tool.name, tool.description, tool.parameters
        self.effect = tool.effect
        self._rerun = rerun
        self._tool = tool

    def spec(self) -> ToolSpec:
        """Return the tool as the model sees it."""
        return self._tool.spec()

    def call(self, params: str, **kwargs: Any) -> str:
        """Return what the call returned then, or run it. Raises what the tool raises."""
        told = self._rerun.observation(self.name, params)
        if told is not None:
            return told
        if not self._rerun.over and self.effect is Effect.DANGEROUS:
            # Nobody is asked about a step that is played again.
            raise ToolError("this step failed, and is not tried again")
        return self._tool.call(params, **kwargs)


def _same(arguments: str, params: str) -> bool:
    try:
        return bool(json.loads(arguments) == json.loads(params))
    except (ValueError, RecursionError):
        return False
