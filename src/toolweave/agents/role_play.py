"""RolePlay: an agent with a role, tools and knowledge, as ModelScope-Agent's class of the same name."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, cast

from toolweave.agents.detect import detect_dialect
from toolweave.agents.events import Cited, Event, Limits
from toolweave.agents.loop import Loop
from toolweave.agents.memory import Window, read_history
from toolweave.agents.toolbox import Policy, Toolbox
from toolweave.dialects import Dialect, Prompt, get_dialect
from toolweave.errors import ToolweaveError
from toolweave.knowledge import Knowledge, Passage
from toolweave.models.client import ModelClient
from toolweave.models.interface import Model
from toolweave.tools.base import BaseTool
from toolweave.tools.registry import make_tool
from toolweave.types import Lang, Role

ToolItem = str | Mapping[str, Any] | BaseTool


class RolePlay:
    """An agent that plays a role and calls tools.

    `function_list` items are a registered name, `{name: cfg}` or a tool. `llm` is a config (see `ModelClient`) or
    anything with `complete`. `instruction` is the role prompt, or AgentFabric's `{name, description, instruction}`.
    `knowledge` are documents, searched for every question. Other options of upstream are named in a warning and
    not used.
    """

    def __init__(
        self,
        function_list: Sequence[ToolItem] | None = None,
        llm: Mapping[str, Any] | Model | None = None,
        instruction: str | Mapping[str, Any] | None = "",
        *,
        dialect: str | None = None,
        knowledge: Knowledge | Sequence[str | Path] = (),
        policy: Policy | None = None,
        limits: Limits | None = None,
        max_calls: int | None = None,
        max_identical_calls: int | None = 1,
        count_tokens: Callable[[str], int] = len,
        **kwargs: Any,
    ) -> None:
        """Make the agent; nothing is asked of the model yet.

        `dialect` goes before that of `llm`; without either, it is the one that the model was tuned on, if its
        manifest or server tells, or v06. `max_calls` and `max_identical_calls` are those of `Limits`, for when
        there is no more to say. `count_tokens` measures texts for `max_tokens`, and for `max_length` of `llm`.
        Raises ToolweaveError for an unknown tool, dialect or model server, and for a document that cannot be read.
        """
        if kwargs:
            warnings.warn(f"RolePlay does not use {', '.join(sorted(kwargs))}", stacklevel=2)
        if llm is None:
            raise ToolweaveError("RolePlay needs a model", 'llm={"model_server": "openai", "model": …, "api_base": …}')
        self.function_map = {tool.name: tool for tool in map(make_tool, function_list or ())}
        self.instruction = _role(instruction)
        self.limits = limits or Limits(10 if max_calls is None else max_calls, max_identical_calls)
        self.knowledge = knowledge if isinstance(knowledge, Knowledge) else Knowledge(knowledge)
        self.llm: Model = ModelClient(llm) if isinstance(llm, Mapping) else llm
        self._cfg: Mapping[str, Any] = llm if isinstance(llm, Mapping) else {}
        self._named = dialect or self._cfg.get("dialect")
        if self._named:
            get_dialect(self._named)
        self._toolbox = Toolbox(self.function_map.values(), policy)
        self._window = Window(_size(self._cfg), count_tokens)

    @cached_property
    def dialect(self) -> Dialect:
        """The dialect that is spoken with the model. Raises ToolweaveError when the model's own is unknown here."""
        return get_dialect(self._named) if self._named else detect_dialect(self.llm, self._cfg)

    def run(
        self,
        query: str,
        history: Sequence[Mapping[str, Any]] | None = None,
        ref_doc: str | None = None,
        lang: str = "zh",
        append_files: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[str]:
        """Yield what the user sees, in pieces: the model's text and, between, the framed observations.

        `history` holds the earlier messages, `ref_doc` is knowledge for the prompt (instead of that of the agent's
        own documents), `append_files` the paths of uploads, `lang` (`zh` or `en`) the language of the prompt.
        `cancel`, a `threading.Event`, stops model and tools at once; other `kwargs` go to every tool call.
        """
        for event in self.run_events(query, history, ref_doc, lang, append_files, **kwargs):
            if event.visible:
                yield event.visible

    def run_events(
        self,
        query: str,
        history: Sequence[Mapping[str, Any]] | None = None,
        ref_doc: str | None = None,
        lang: str = "zh",
        append_files: Sequence[str] | None = None,
        *,
        cancel: threading.Event | None = None,
        **kwargs: Any,
    ) -> Iterator[Event]:
        """Yield what happens, as typed events; see `run` for the arguments.

        Raises the model's ServerError, after a `Failed` event.
        """
        prompt = self._prompt(query, history or (), lang, append_files or ())
        cited = self._look_up(query) if ref_doc is None else ()
        if cited:
            yield Cited(cited)
        loop = self._loop(append_files or (), kwargs)
        yield from loop.run(self._informed(prompt, ref_doc, cited), cancel)

    async def arun(
        self,
        query: str,
        history: Sequence[Mapping[str, Any]] | None = None,
        ref_doc: str | None = None,
        lang: str = "zh",
        append_files: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        """As `run`; cancelling the task stops model and tools at once."""
        async with aclosing(self.arun_events(query, history, ref_doc, lang, append_files, **kwargs)) as events:
            async for event in events:
                if event.visible:
                    yield event.visible

    async def arun_events(
        self,
        query: str,
        history: Sequence[Mapping[str, Any]] | None = None,
        ref_doc: str | None = None,
        lang: str = "zh",
        append_files: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[Event, None]:
        """As `run_events`; cancelling the task stops model and tools at once."""
        prompt = self._prompt(query, history or (), lang, append_files or ())
        cited = await asyncio.to_thread(self._look_up, query) if ref_doc is None and self.knowledge.passages else ()
        if cited:
            yield Cited(cited)
        if "dialect" not in vars(self):
            await asyncio.to_thread(lambda: self.dialect)  # a server may have to be asked for it
        loop = self._loop(append_files or (), kwargs)
        async with aclosing(loop.arun(self._informed(prompt, ref_doc, cited))) as events:
            async for event in events:
                yield event

    def _prompt(
        self, query: str, history: Sequence[Mapping[str, Any]], lang: str, append_files: Sequence[str]
    ) -> Prompt:
        return Prompt(
            query=query,
            tools=self._toolbox.specs,
            instruction=self.instruction,
            lang=_lang(lang),
            history=read_history(history),
            # The model sees names, not paths of the server.
            files=tuple(PurePath(path).name for path in append_files),
            knowledge_limit=(self._cfg.get("length_constraint") or {}).get("knowledge"),
        )

    def _look_up(self, query: str) -> tuple[Passage, ...]:
        return tuple(self.knowledge.search(query))

    def _informed(self, prompt: Prompt, ref_doc: str | None, cited: Sequence[Passage]) -> Prompt:
        # As upstream: with uploads to compute on, knowledge would only be in the way.
        if prompt.files and "code_interpreter" in self.function_map:
            return prompt
        return replace(prompt, knowledge=ref_doc or "\n".join(passage.text for passage in cited))

    def _loop(self, append_files: Sequence[str], kwargs: Mapping[str, Any]) -> Loop:
        tool_kwargs = {**kwargs, "append_files": list(append_files)}
        return Loop(self.llm, self.dialect, self._toolbox, self.limits, self._window, tool_kwargs)


def _role(instruction: str | Mapping[str, Any] | None) -> str | Role:
    if instruction is None or isinstance(instruction, str):
        return instruction or ""
    if "name" not in instruction:
        hint = 'a dict needs {"name": …, "description": …, "instruction": …}'
        raise ToolweaveError("the instruction has no name", hint)
    return cast(Role, dict(instruction))


def _lang(lang: str) -> Lang:
    try:
        return Lang(lang)
    except ValueError:
        raise ToolweaveError(f"unknown language {lang!r}", "lang is zh or en") from None


def _size(llm: Mapping[str, Any]) -> int | None:
    """Return how long a request may be: `max_length`, or `length_constraint.input` of a model_config.json entry."""
    size = llm.get("max_length") or (llm.get("length_constraint") or {}).get("input")
    return int(size) if size else None
