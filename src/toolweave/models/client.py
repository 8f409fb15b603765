"""The client of any OpenAI-compatible model server."""

from __future__ import annotations

import inspect
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from openai import OpenAI, Stream
from openai.resources.chat.completions import Completions as ChatCompletions
from openai.resources.completions import Completions
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from toolweave.errors import ServerError
from toolweave.models.interface import STOPPED
from toolweave.models.server_errors import explained
from toolweave.types import Json, Message


@dataclass(frozen=True, slots=True)
class _Preset:
    """Where a kind of server is and which environment variable holds its key."""

    url: str
    key_name: str = "OPENAI_API_KEY"
    needs_key: bool = False


_PRESETS = {
    "openai": _Preset("https://api.openai.com/v1", needs_key=True),
    "vllm-server": _Preset("http://localhost:8000/v1"),
    "ollama": _Preset("http://localhost:11434/v1"),
    "dashscope": _Preset("https://dashscope.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY", needs_key=True),
    "modelscope": _Preset("https://api-inference.modelscope.cn/v1", "MODELSCOPE_API_TOKEN", needs_key=True),
    "zhipu": _Preset("https://open.bigmodel.cn/api/paas/v4", "ZHIPU_API_KEY", needs_key=True),
}
_NO_KEY = "EMPTY"
# AgentFabric's model_config.json has these; they steer its own client and no server knows them.
_CLIENT_SIDE = ("use_raw_prompt", "debug")
# Servers of raw completions stop after 16 tokens when they are not told otherwise; upstream says 2000.
_RAW_MAX_TOKENS = 2000


class ModelClient:
    """A model behind an OpenAI-compatible server, from an AgentFabric llm config.

    `llm` keys: `model`, `model_server` (openai, vllm-server, ollama, dashscope, modelscope, zhipu), `api_base`,
    `api_key`, `is_chat` (default true; false sends a raw prompt to /completions), `support_stream` (default
    false), `generate_cfg` (added to each request), `max_length` (characters of all messages; above it the
    oldest history is left out), `timeout` in seconds. Raises ServerError for an unknown `model_server` or no model.
    """

    def __init__(self, llm: Mapping[str, Any]) -> None:
        server = llm.get("model_server", "openai")
        if server not in _PRESETS:
            raise ServerError(f"unknown model_server {server!r}", f"choose one of {', '.join(_PRESETS)}")
        if not llm.get("model"):
            raise ServerError("the llm config names no model", 'add "model": "…"')
        self.model: str = llm["model"]
        self._llm = dict(llm)
        self._preset = _PRESETS[server]
        env_url = os.environ.get("OPENAI_API_BASE") if server == "openai" else None
        self.base_url: str = llm.get("api_base") or env_url or self._preset.url

    def complete(self, messages: Sequence[Message], stop: Sequence[str]) -> Generator[str, None, str]:
        """Yield the reply in pieces (one, unless `support_stream`) and return the finish reason.

        Raises ServerError when the server cannot be reached or refuses.
        """
        kept = _within(messages, self._llm.get("max_length"))
        request: Json = {"model": self.model, "stream": bool(self._llm.get("support_stream")), "stop": list(stop)}
        if self._llm.get("is_chat", True):
            create: Any = self._client.chat.completions.create
            request |= {"messages": [dict(message) for message in kept]} | self._generate_cfg(stop, _CHAT_FIELDS)
        else:
            create = self._client.completions.create
            request["prompt"] = "\n\n".join(message["content"] for message in kept)
            request |= {"max_tokens": _RAW_MAX_TOKENS} | self._generate_cfg(stop, _RAW_FIELDS)
        with explained(self._client, self.model):
            return (yield from _pieces(create(**request), self.base_url))

    def _generate_cfg(self, stop: Sequence[str], known: frozenset[str]) -> Json:
        """Return what `generate_cfg` adds: fields the SDK does not know (top_k, …) travel in the body as they are."""
        cfg: Json = self._llm.get("generate_cfg") or {}
        given = {key: value for key, value in cfg.items() if key not in _CLIENT_SIDE}
        if "stop" in given:
            more = given["stop"]
            given["stop"] = [*stop, *([more] if isinstance(more, str) else more)]
        extra = given.pop("extra_body", {}) | {key: given.pop(key) for key in list(given) if key not in known}
        return given | ({"extra_body": extra} if extra else {})

    @cached_property
    def _client(self) -> OpenAI:
        key = self._llm.get("api_key") or os.environ.get(self._preset.key_name)
        if not key and self._preset.needs_key and self.base_url == self._preset.url:
            hint = f"set {self._preset.key_name}, or api_key in the llm config"
            raise ServerError(f"no key for {self.base_url}", hint)
        client = OpenAI(api_key=key or _NO_KEY, base_url=self.base_url)
        return client.with_options(timeout=float(self._llm["timeout"])) if "timeout" in self._llm else client


_CHAT_FIELDS = frozenset(inspect.signature(ChatCompletions.create).parameters)
_RAW_FIELDS = frozenset(inspect.signature(Completions.create).parameters)


def _pieces(answer: object, url: str) -> Generator[str, None, str]:
    if isinstance(answer, Stream):
        finish_reason = ""
        with answer:
            for chunk in answer:
                text, finish = _choice(chunk, url)
                finish_reason = finish or finish_reason
                if text:
                    yield text
        return finish_reason or STOPPED
    text, finish = _choice(answer, url)
    if text:
        yield text
    return finish or STOPPED


def _choice(answer: object, url: str) -> tuple[str, str]:
    """Return (text, finish reason) of an answer or chunk; a chunk with usage only has neither."""
    # The SDK does not check what it reads, so a server of another kind shows only here.
    if not isinstance(answer, ChatCompletion | ChatCompletionChunk | Completion) or answer.choices is None:
        raise ServerError(f"{url} does not answer like an OpenAI API", "check api_base: it mostly ends in /v1")
    if not answer.choices:
        return "", ""
    choice: Any = answer.choices[0]
    if isinstance(answer, Completion):
        text = choice.text
    else:
        text = (choice.delta if isinstance(answer, ChatCompletionChunk) else choice.message).content
    return text or "", choice.finish_reason or ""


def _within(messages: Sequence[Message], max_length: int | None) -> list[Message]:
    """Leave out the oldest history until the rest has `max_length` characters; first and last message stay."""
    kept = list(messages)
    while max_length and len(kept) > 2 and sum(len(message["content"]) for message in kept) > max_length:
        # History goes by whole turns: what is left begins with a user message.
        del kept[1 : 3 if len(kept) > 3 else 2]
    return kept
