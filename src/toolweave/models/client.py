"""The client of any OpenAI-compatible model server."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import httpx2
import openai
from openai import AsyncAzureOpenAI, AsyncOpenAI, AsyncStream, AzureOpenAI, DefaultAsyncHttpxClient, OpenAI, Stream
from openai.resources.chat.completions import Completions as ChatCompletions
from openai.resources.completions import Completions

from toolweave.errors import ServerError
from toolweave.models.answer import Answer
from toolweave.models.interface import Finished
from toolweave.models.presets import Endpoint
from toolweave.models.server_errors import explain, is_missing
from toolweave.types import Json, Message, ToolSpec

# AgentFabric's model_config.json has these; they steer its own client and no server knows them.
_CLIENT_SIDE = ("use_raw_prompt", "debug")
# Servers of raw completions stop after 16 tokens when they are not told otherwise; upstream says 2000.
_RAW_MAX_TOKENS = 2000


class ModelClient:
    """A model behind an OpenAI-compatible server, from an AgentFabric llm config or `model_config.json` entry.

    `llm` keys: `model`, `model_server` or `type` (see `PRESETS`), `api_base`, `api_key`, `is_chat` (default true;
    false sends a raw prompt to /completions), `support_stream` (default false), `generate_cfg` (added to each
    request), `timeout` in seconds, `max_retries` (default 2, with growing pauses, before the first piece only).
    Raises ServerError for an unknown `model_server` or no model.
    """

    def __init__(self, llm: Mapping[str, Any]) -> None:
        self._endpoint = Endpoint.of(llm)
        if not llm.get("model"):
            raise ServerError("the llm config names no model", 'add "model": "…"')
        self.model: str = llm["model"]
        self._llm = {key: value for key, value in llm.items() if key != "api_key"}
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncOpenAI] = WeakKeyDictionary()

    @property
    def base_url(self) -> str:
        """Where the server is."""
        return self._endpoint.url

    def close(self) -> None:
        """Close the idle connections that `complete` keeps."""
        if "_client" in self.__dict__:
            self._client.close()

    def complete(
        self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec] = ()
    ) -> Generator[str, None, str]:
        """Yield the reply in pieces (one, unless `support_stream`) and return the finish reason.

        Native tool calls come last, as `reply_text` writes them. Raises ServerError when the server cannot be
        reached or refuses.
        """
        client = self._client
        try:
            answer = Answer(self.base_url)
            response = self._create(client, messages, stop, tools)
            if isinstance(response, Stream):
                with response:
                    for chunk in response:
                        if text := answer.feed(chunk):
                            yield text
            elif text := answer.feed(response):
                yield text
            if calls := answer.end():
                yield calls
            return answer.finish_reason
        except openai.OpenAIError as error:
            offered = self._offered() if is_missing(error) else []
            raise explain(error, self._endpoint, self.model, offered) from None

    async def acomplete(
        self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec] = ()
    ) -> AsyncIterator[str | Finished]:
        """As `complete`; cancelling the task, or closing the iterator, closes the connection at once."""
        client = self._async_client
        try:
            answer = Answer(self.base_url)
            response = await self._create(client, messages, stop, tools)
            if isinstance(response, AsyncStream):
                async with response:
                    async for chunk in response:
                        if text := answer.feed(chunk):
                            yield text
            elif text := answer.feed(response):
                yield text
            if calls := answer.end():
                yield calls
            yield Finished(answer.finish_reason)
        except openai.OpenAIError as error:
            offered = await asyncio.to_thread(self._offered) if is_missing(error) else []
            raise explain(error, self._endpoint, self.model, offered) from None

    @property
    def may_tell_dialect(self) -> bool:
        """Whether the server may be one that knows what its model was tuned on; the public ones do not."""
        return not self._endpoint.preset.needs_key or self.base_url not in (self._endpoint.preset.url, "")

    def dialect(self) -> str | None:
        """Return the dialect that the server says the model was tuned on; None if it does not say, or not at once."""
        try:
            listed = self._client.with_options(timeout=3.0, max_retries=0).models.list().data
            told = [getattr(model, "dialect", None) for model in listed if model.id == self.model]
        except (ServerError, openai.OpenAIError, AttributeError, TypeError):
            return None  # what is wrong shows when the model is asked
        return next((name for name in told if isinstance(name, str)), None)

    def _create(
        self, client: OpenAI | AsyncOpenAI, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec]
    ) -> Any:
        request: Json = {"model": self.model, "stream": bool(self._llm.get("support_stream"))}
        if stop:
            request["stop"] = list(stop)
        if self._llm.get("is_chat", True):
            request["messages"] = [dict(message) for message in messages]
            if tools:
                request["tools"] = [tool.openai() for tool in tools]
            return client.chat.completions.create(**request | self._generate_cfg(stop, _CHAT_FIELDS))
        request["prompt"] = "\n\n".join(message["content"] for message in messages)
        request["max_tokens"] = _RAW_MAX_TOKENS
        return client.completions.create(**request | self._generate_cfg(stop, _RAW_FIELDS))

    def _generate_cfg(self, stop: Sequence[str], known: frozenset[str]) -> Json:
        """Return what `generate_cfg` adds: fields the SDK does not know (top_k, …) travel in the body as they are."""
        cfg: Json = self._llm.get("generate_cfg") or {}
        given = {key: value for key, value in cfg.items() if key not in _CLIENT_SIDE}
        if "stop" in given:
            more = given["stop"]
            given["stop"] = [*stop, *([more] if isinstance(more, str) else more)]
        extra = given.pop("extra_body", {}) | {key: given.pop(key) for key in list(given) if key not in known}
        return given | ({"extra_body": extra} if extra else {})

    def _offered(self) -> list[str]:
        try:
            return [model.id for model in self._client.models.list().data]
        except (openai.OpenAIError, AttributeError, TypeError):
            # Not every server lists its models, and what is not an OpenAI API answers anything.
            return []

    @cached_property
    def _client(self) -> OpenAI:
        self._endpoint.check_key()
        if self._endpoint.azure_version:
            return AzureOpenAI(**self._options, **self._azure_options)
        return OpenAI(**self._options, base_url=self.base_url)

    @property
    def _async_client(self) -> AsyncOpenAI:
        """The client of this event loop. It keeps no idle connections, which would outlive the loop."""
        self._endpoint.check_key()
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            http = DefaultAsyncHttpxClient(limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0))
            if self._endpoint.azure_version:
                self._loops[loop] = AsyncAzureOpenAI(**self._options, **self._azure_options, http_client=http)
            else:
                self._loops[loop] = AsyncOpenAI(**self._options, base_url=self.base_url, http_client=http)
        return self._loops[loop]

    @property
    def _options(self) -> Json:
        options: Json = {"api_key": self._endpoint.key}
        if "timeout" in self._llm:
            options["timeout"] = float(self._llm["timeout"])
        if "max_retries" in self._llm:
            options["max_retries"] = int(self._llm["max_retries"])
        return options

    @property
    def _azure_options(self) -> Json:
        return {"azure_endpoint": self.base_url, "api_version": self._endpoint.azure_version}


_CHAT_FIELDS = frozenset(inspect.signature(ChatCompletions.create).parameters)
_RAW_FIELDS = frozenset(inspect.signature(Completions.create).parameters)
