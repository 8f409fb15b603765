"""RolePlay: an agent with a role, tools and knowledge, as ModelScope-Agent's class of the same name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, cast

from toolweave.agents.loop import Event, Limits, Loop
from toolweave.dialects import Prompt, get_dialect
from toolweave.errors import ToolweaveError
from toolweave.models.client import ModelClient
from toolweave.models.interface import Model
from toolweave.tools.base import BaseTool
from toolweave.tools.registry import make_tool
from toolweave.types import Lang, Message, Role

ToolItem = str | Mapping[str, Any] | BaseTool


class RolePlay:
    """An agent that plays a role and calls tools.

    `function_list` items are a registered name, `{name: cfg}` or a tool. `llm` is a config (see `ModelClient`; its
    `dialect` is `v06`, the default, or `v07`) or anything with `complete`. `instruction` is the role prompt, or
    AgentFabric's `{name, description, instruction}`. Other options of upstream are named in a warning and not used.
    """

    def __init__(
        self,
        function_list: Sequence[ToolItem] | None = None,
        llm: Mapping[str, Any] | Model | None = None,
        instruction: str | Mapping[str, Any] | None = "",
        *,
        dialect: str | None = None,
        max_calls: int = 10,
        max_identical_calls: int | None = 1,
        **kwargs: Any,
    ) -> None:
        """`max_calls` and `max_identical_calls` are those of `Limits`; `dialect` goes before that of `llm`.

        Raises ToolweaveError for an unknown tool, dialect or model server.
        """
        if kwargs:
            warnings.warn(f"RolePlay does not use {', '.join(sorted(kwargs))}", stacklevel=2)
        if llm is None:
            raise ToolweaveError("RolePlay needs a model", 'llm={"model_server": "openai", "model": …, "api_base": …}')
        self.function_map = {tool.name: tool for tool in map(make_tool, function_list or ())}
        self.instruction = _role(instruction)
        self.limits = Limits(max_calls, max_identical_calls)
        if isinstance(llm, Mapping):
            if llm.get("is_function_call"):
                warnings.warn("is_function_call is not used: tools are offered in the prompt", stacklevel=2)
            dialect = dialect or llm.get("dialect")
        self.llm: Model = ModelClient(llm) if isinstance(llm, Mapping) else llm
        self.dialect = get_dialect(dialect or "v06")

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

        `history` holds the earlier messages, `ref_doc` is knowledge for the prompt, `append_files` the paths of
        uploads, `lang` (`zh` or `en`) the language of the prompt; `kwargs` go to every tool call.
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
        **kwargs: Any,
    ) -> Iterator[Event]:
        """Yield what happens, as typed events; see `run` for the arguments. Raises ServerError from the model."""
        prompt = Prompt(
            query=query,
            tools=tuple(tool.spec() for tool in self.function_map.values()),
            instruction=self.instruction,
            lang=_lang(lang),
            knowledge=ref_doc or "",
            history=_history(history or ()),
            # The model sees names, not paths of the server.
            files=tuple(PurePath(path).name for path in append_files or ()),
        )
        return Loop(self.llm, self.dialect, self.function_map, self.limits, kwargs).run(prompt)


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


def _history(history: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    # The system message is made anew for this turn.
    return tuple(
        Message(role=str(message["role"]), content=str(message["content"]))
        for message in history
        if message["role"] != "system"
    )
