"""From a request to generations, and from generations to a response."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from toolweave.dialects import Dialect, ToolsIn
from toolweave.errors import ModelError, ToolweaveError
from toolweave.serving.calls import CallStream, ReplyDelta
from toolweave.serving.conversation import dialect_messages, language, tools_in_text
from toolweave.serving.engine import Engine
from toolweave.serving.gatekeeper import Admission, Limits
from toolweave.serving.generation import DeadlineError, Generation, Piece, Usage
from toolweave.serving.grammar import CallFrame, GuideError, call_grammar, json_grammar
from toolweave.serving.metrics import Metrics
from toolweave.serving.protocol import ChatRequest, CompletionRequest, SamplingDefaults, named_tool
from toolweave.serving.replies import Reply, error_json, finish_reason
from toolweave.serving.sampling import RequestError
from toolweave.types import Json, ToolSpec

T = TypeVar("T")
_PREPARING = 4  # requests whose prompts are written at once, each in a thread


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a request asks of the engine, and the dialect that its calls are read by, if it offers tools.

    Calls lean towards the words of `said`. `strict` says that a grammar that cannot be followed is an error; otherwise
    the reply is free then.
    """

    prompt: list[int]
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    said: tuple[str, ...] = ()
    dialect: Dialect | None = None
    strict: bool = True


@dataclass(slots=True)
class _Answer:
    """The generations of one request, its places in the queue, and what they took."""

    generations: list[Generation]
    dialect: Dialect | None
    places: ExitStack
    metrics: Metrics
    started: float = field(default_factory=time.monotonic)
    spoke: bool = False

    def note_token(self) -> None:
        if not self.spoke:
            self.spoke = True
            self.metrics.first_token.observe(time.monotonic() - self.started)

    def takers(self) -> list[CallStream | None]:
        return [None if self.dialect is None else CallStream(self.dialect) for _ in self.generations]

    @property
    def usage(self) -> Usage:
        counts = [generation.usage for generation in self.generations]
        return replace(counts[0], completion_tokens=sum(usage.completion_tokens for usage in counts))

    def close(self) -> None:
        """Give up what still runs, and the places."""
        for generation in self.generations:
            generation.cancel()
        self.metrics.duration.observe(time.monotonic() - self.started)
        self.metrics.count(self.usage)
        self.places.close()


class Service:
    """Answers the requests of one model.

    `dialect` is the format in which tools are told to the model and its calls are read. With `guided_calls`, calls are
    limited to the tools offered, unless a request says otherwise or their schemas cannot be followed. Raises ModelError
    when the dialect leaves tools to a chat template that does not take them.
    """

    def __init__(
        self, engine: Engine, model_name: str, dialect: Dialect, limits: Limits, *, guided_calls: bool = True
    ) -> None:
        if dialect.tools_in is ToolsIn.REQUEST and not engine.template.takes_tools:
            raise ModelError(
                f"the chat template of {model_name} tells the model of no tools, which {dialect.name} leaves to it",
                "choose another --dialect, such as hermes",
            )
        self.engine = engine
        self.dialect = dialect
        self.names = tuple(dict.fromkeys((model_name, PurePath(model_name).name)))
        self.metrics = Metrics(engine)
        self._admission = Admission(engine.max_batch, limits.max_queue)
        self._seconds = limits.request_seconds
        self._guided_calls = guided_calls
        self._threads = anyio.CapacityLimiter(_PREPARING)
        self._defaults = _sampling_defaults(engine)

    async def answer(self, request: Request, body: ChatRequest | CompletionRequest) -> Response:
        """Answer a request. Raises HTTPException for another model, QueueFullError, RequestError and GuideError."""
        if body.model is not None and body.model not in self.names:
            raise HTTPException(404, f"the model {body.model!r} is not served here; this server has {self.names[0]!r}")
        answer = await self._start(body)
        reply = Reply(body.model or self.names[0], self.engine.template.tokenizer, chat=isinstance(body, ChatRequest))
        if body.stream:
            return _Stream(self._events(answer, reply, usage=body.wants_usage), answer)
        try:
            choices = await _until_gone(request, answer, self._whole(answer, reply, logprobs=body.top is not None))
        finally:
            answer.close()
        return JSONResponse(reply.whole(choices, answer.usage))

    async def _start(self, body: ChatRequest | CompletionRequest) -> _Answer:
        started = time.monotonic()
        places = ExitStack()
        took = places.enter_context(self._admission.admit(body.choices))
        places.callback(lambda: took(time.monotonic() - started))
        try:
            with anyio.fail_after(self._seconds):
                dialect, generations = await run_sync(
                    lambda: self._submit(body), abandon_on_cancel=True, limiter=self._threads
                )
        except TimeoutError:
            places.close()
            raise DeadlineError(f"the prompt was not ready within {self._seconds:g} s") from None
        except BaseException:
            places.close()
            raise
        return _Answer(generations, dialect, places, self.metrics, started)

    def _submit(self, body: ChatRequest | CompletionRequest) -> tuple[Dialect | None, list[Generation]]:
        plan = self._plan(body) if isinstance(body, ChatRequest) else self._plan_raw(body.text_or_ids)
        params = body.sampling(self._defaults, plan.stop)
        each = [
            params if params.seed is None or not number else replace(params, seed=params.seed + number)
            for number in range(body.choices)
        ]
        return plan.dialect, [
            self.engine.submit(
                plan.prompt, own, grammar=plan.grammar, said=plan.said, strict=plan.strict, seconds=self._seconds
            )
            for own in each
        ]

    def _plan_raw(self, prompt: str | list[int]) -> _Plan:
        return _Plan(self.engine.template.raw_ids(prompt) if isinstance(prompt, str) else prompt)

    def _plan(self, body: ChatRequest) -> _Plan:
        offered = tuple(tool.to_spec() for tool in body.tools or ())
        choice = named_tool(body.tool_choice)
        tools = () if body.tool_choice == "none" else offered
        if choice is not None:
            tools = tuple(tool for tool in tools if tool.name == choice)
        forced = choice is not None or body.tool_choice == "required"
        if forced and not tools:
            raise RequestError(f"tool_choice: {choice or 'a tool'} is required, but tools does not offer it")
        lang = language(body.messages)
        if offered or any(message.tool_calls or message.role == "tool" for message in body.messages):
            messages = dialect_messages(self.dialect, body.messages, () if not tools else offered, lang)
        else:
            messages = [message.to_message() for message in body.messages]
        schema = body.response_format.wanted if body.response_format is not None else None
        if schema is not None and tools:
            raise RequestError("response_format: JSON and calls exclude each other", 'say tool_choice "none"')
        limited = tools if forced else self._limited(body, tools)
        strict = forced or schema is not None or body.guided_calls is not None
        grammar, said = None, tuple[str, ...]()
        with nullcontext() if strict else suppress(GuideError):
            if schema is not None:
                grammar = json_grammar(schema)
            elif limited:
                grammar = call_grammar(CallFrame.of(self.dialect, lang), limited, forced=forced)
                said = tuple(str(message["content"]) for message in messages if message["role"] != "system")
        told = offered if tools and self.dialect.tools_in is ToolsIn.REQUEST else ()
        prompt = self.engine.template.prompt_ids(messages, told)
        return _Plan(prompt, self.dialect.stop if tools else (), grammar, said, self.dialect if tools else None, strict)

    def _limited(self, body: ChatRequest, tools: Sequence[ToolSpec]) -> Sequence[ToolSpec]:
        """Return the tools that calls are limited to; none leaves the reply free."""
        wanted = self._guided_calls if body.guided_calls is None else body.guided_calls
        if isinstance(wanted, list):
            return [tool.to_spec() for tool in wanted]
        if not wanted or body.tool_choice == "none":
            return ()
        return tools or tools_in_text(body.messages)

    async def _whole(self, answer: _Answer, reply: Reply, *, logprobs: bool) -> list[Json]:
        choices = []
        for index, (generation, taker) in enumerate(zip(answer.generations, answer.takers(), strict=True)):
            pieces = []
            async for piece in generation.pieces():
                answer.note_token()
                pieces.append(piece)
            piece = Piece("".join(p.text for p in pieces), tuple(token for p in pieces for token in p.logprobs))
            delta = ReplyDelta(piece.text)
            if taker is not None:
                first, last = taker.push(piece.text), taker.finish()
                delta = ReplyDelta(first.content + last.content, first.calls + last.calls)
            reason = finish_reason(generation.finish_reason, called=bool(delta.calls))
            choices.append(reply.choice(index, delta, piece, reason, logprobs=logprobs))
        return choices

    async def _events(self, answer: _Answer, reply: Reply, *, usage: bool) -> AsyncIterator[str]:
        takers = answer.takers()
        try:
            for index in range(len(takers)):
                if (first := reply.first(index)) is not None:
                    yield _event(first)
            async for index, piece in _merged(answer.generations):
                answer.note_token()
                taker = takers[index]
                if piece is not None:
                    delta = ReplyDelta(piece.text) if taker is None else taker.push(piece.text)
                    if delta.content or delta.calls or piece.logprobs:
                        yield _event(reply.chunk(index, delta, piece.logprobs))
                    continue
                # None: the reply has ended.
                if taker is not None:
                    rest = taker.finish()
                    if rest.content or rest.calls:
                        yield _event(reply.chunk(index, rest))
                called = taker is not None and taker.called
                yield _event(reply.last(index, finish_reason(answer.generations[index].finish_reason, called=called)))
            if usage:
                yield _event(reply.usage(answer.usage))
        except ToolweaveError as error:
            yield _event(error_json(str(error), kind="server_error"))
        yield "data: [DONE]\n\n"


class _Stream(StreamingResponse):
    """A stream whose request is given up when it ends, however it ends."""

    def __init__(self, events: AsyncIterator[str], answer: _Answer) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()


async def _merged(generations: Sequence[Generation]) -> AsyncIterator[tuple[int, Piece | None]]:
    """Yield the pieces of all generations as they come, each with its index; None ends one."""
    if len(generations) == 1:
        async for piece in generations[0].pieces():
            yield 0, piece
        yield 0, None
        return
    sources = [generation.pieces() for generation in generations]
    tasks: dict[asyncio.Future[Piece | None], int] = {
        asyncio.ensure_future(anext(source, None)): index for index, source in enumerate(sources)
    }
    try:
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index, following = tasks.pop(task), task.result()
                yield index, following
                if following is not None:
                    tasks[asyncio.ensure_future(anext(sources[index], None))] = index
    finally:
        for task in tasks:
            task.cancel()


async def _until_gone(request: Request, answer: _Answer, work: Coroutine[None, None, T]) -> T:
    """Return what `work` returns; give the generations up when the client goes away."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        for generation in answer.generations:
            generation.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        return await work
    finally:
        watcher.cancel()


def _sampling_defaults(engine: Engine) -> SamplingDefaults:
    config = engine.model.generation_config
    if not config.do_sample:
        return SamplingDefaults()
    given = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
    sampled = SamplingDefaults(temperature=1.0).model_dump() | {k: v for k, v in given.items() if v is not None}
    return SamplingDefaults.model_validate(sampled, strict=False)


def _event(body: Json) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
