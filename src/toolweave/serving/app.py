"""The OpenAI API over an engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import PurePath
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from toolweave.errors import ModelError, ToolweaveError
from toolweave.serving.engine import Engine
from toolweave.serving.generation import Generation, RequestError
from toolweave.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    Reply,
    SamplingDefaults,
    error_json,
)
from toolweave.types import Json

_INVALID = "invalid_request_error"
_MAX_CONNECTIONS = 512  # each open reply waits in a thread of its own
T = TypeVar("T")


class _Service:
    """Turns requests into generations and generations into responses."""

    def __init__(self, engine: Engine, model_name: str) -> None:
        self.engine = engine
        self.names = tuple(dict.fromkeys((model_name, PurePath(model_name).name)))
        self._threads = anyio.CapacityLimiter(_MAX_CONNECTIONS)
        self._defaults = _sampling_defaults(engine)

    async def answer(self, request: Request, body: ChatRequest | CompletionRequest) -> Response:
        self._check(body)
        generation = await self._in_thread(lambda: self._submit(body))
        reply = Reply(body.model or self.names[0], chat=isinstance(body, ChatRequest))
        if body.stream:
            events = self._events(generation, reply, usage=body.wants_usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        text = await self._whole(request, generation)
        return JSONResponse(reply.whole(text, generation.finish_reason, generation.usage))

    def _check(self, body: ChatRequest | CompletionRequest) -> None:
        if body.model is not None and body.model not in self.names:
            raise HTTPException(404, f"the model {body.model!r} is not served here; this server has {self.names[0]!r}")
        if body.n not in (None, 1):
            raise RequestError(f"n is {body.n}; one reply a request (n = 1) is supported")

    def _submit(self, body: ChatRequest | CompletionRequest) -> Generation:
        template = self.engine.template
        if isinstance(body, ChatRequest):
            ids = template.prompt_ids([message.to_message() for message in body.messages])
        else:
            ids = list(template.tokenizer(body.text)["input_ids"])
        return self.engine.submit(ids, body.sampling(self._defaults))

    async def _whole(self, request: Request, generation: Generation) -> str:
        """Return the whole text; give the generation up when the client goes away."""

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            generation.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            try:
                # An error must leave the task group as itself, not inside a group of errors.
                outcome = await self._in_thread(lambda: _outcome(generation))
            finally:
                generation.cancel()
            tasks.cancel_scope.cancel()
        if isinstance(outcome, ToolweaveError):
            raise outcome
        return outcome

    async def _events(self, generation: Generation, reply: Reply, *, usage: bool) -> AsyncIterator[str]:
        deltas = iter(generation)
        try:
            yield _event(reply.chunk("", first=True))
            while (delta := await self._in_thread(lambda: next(deltas, None))) is not None:
                yield _event(reply.chunk(delta))
            yield _event(reply.chunk(None, finish_reason=generation.finish_reason))
            if usage:
                yield _event(reply.usage(generation.usage))
        except ToolweaveError as error:
            yield _event(error_json(str(error), kind="server_error"))
        finally:
            generation.cancel()
        yield "data: [DONE]\n\n"

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await run_sync(work, abandon_on_cancel=True, limiter=self._threads)


def create_app(engine: Engine, model_name: str, dialect: str | None = None) -> FastAPI:
    """Return the server of one model. It answers to `model_name` and its last path component.

    `dialect` is told to clients in /v1/models: the prompt format that the model was tuned on.
    """
    app = FastAPI(title="toolweave", docs_url=None, redoc_url=None)
    service = _Service(engine, model_name)

    @app.get("/health")
    async def health() -> Json:
        return {"status": "ok", "running": engine.running}

    @app.get("/v1/models")
    async def models() -> Json:
        about = {"object": "model", "created": 0, "owned_by": "toolweave", "max_model_len": engine.max_length}
        return {"object": "list", "data": [{"id": name, **about, "dialect": dialect} for name in service.names]}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request, body: ChatRequest) -> Response:
        return await service.answer(request, body)

    @app.post("/v1/completions", response_model=None)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        return await service.answer(request, body)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        param, message = _explain(error.errors())
        return JSONResponse(error_json(message, kind=_INVALID, param=param), 400)

    @app.exception_handler(ToolweaveError)
    async def refused(_: Request, error: ToolweaveError) -> JSONResponse:
        if isinstance(error, RequestError | ModelError):
            return JSONResponse(error_json(str(error), kind=_INVALID), 400)
        return JSONResponse(error_json(str(error), kind="server_error"), 500)

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> JSONResponse:
        code = "model_not_found" if "model" in error.detail else None
        return JSONResponse(error_json(error.detail, kind=_INVALID, code=code), error.status_code)

    return app


def _sampling_defaults(engine: Engine) -> SamplingDefaults:
    config = engine.model.generation_config
    if not config.do_sample:
        return SamplingDefaults()
    given = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
    sampled = SamplingDefaults(temperature=1.0).model_dump() | {k: v for k, v in given.items() if v is not None}
    return SamplingDefaults.model_validate(sampled, strict=False)


def _outcome(generation: Generation) -> str | ToolweaveError:
    try:
        return "".join(generation)
    except ToolweaveError as error:
        return error


def _event(body: Json) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _explain(errors: Sequence[Json]) -> tuple[str | None, str]:
    """Return the field of the first validation error, and what is wrong with it."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return (where or None), f"{where}: {first['msg']}" if where else str(first["msg"])
