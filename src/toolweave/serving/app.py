"""The OpenAI API over an engine."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from toolweave.dialects import Dialect, get_dialect
from toolweave.errors import ModelError, ToolweaveError
from toolweave.models.template import ChatTemplate
from toolweave.serving.engine import Engine
from toolweave.serving.gatekeeper import Gatekeeper, Limits, QueueFullError
from toolweave.serving.generation import DeadlineError
from toolweave.serving.grammar import GuideError
from toolweave.serving.metrics import CONTENT_TYPE
from toolweave.serving.protocol import ChatRequest, CompletionRequest
from toolweave.serving.replies import error_json
from toolweave.serving.sampling import RequestError
from toolweave.serving.service import Service
from toolweave.types import Json

DEFAULT_DIALECT = "agentfabric-v07"
_INVALID = "invalid_request_error"


def create_app(
    engine: Engine,
    model_name: str,
    dialect: str | None = None,
    *,
    limits: Limits | None = None,
    guided_calls: bool = True,
) -> FastAPI:
    """Return the server of one model. It answers to `model_name` and its last path component.

    `dialect` is the prompt format that the model was tuned on: requests with `tools` are written, and calls read,
    in it, and /v1/models tells it to clients. Without one, tools are left to a chat template that takes them.
    `guided_calls` limits calls to the tools offered, in `tools` or in the system message of an AgentFabric app.
    """
    app = FastAPI(title="toolweave", docs_url=None, redoc_url=None, openapi_url=None)
    limits = limits or Limits()
    service = Service(engine, model_name, _dialect(dialect, engine.template), limits, guided_calls=guided_calls)
    app.add_middleware(
        Gatekeeper, limits=limits, answered=lambda status: service.metrics.requests.labels(str(status)).inc()
    )
    if limits.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=limits.allowed_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    if limits.allowed_hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=limits.allowed_hosts, www_redirect=False)

    @app.get("/health")
    async def health() -> Json:
        return {"status": "ok", "running": engine.running, "waiting": engine.waiting}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

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
        if isinstance(error, QueueFullError):
            body = error_json(str(error), kind="rate_limit_error", code="queue_full")
            return JSONResponse(body, 429, headers={"retry-after": str(error.retry_after)})
        if isinstance(error, RequestError | ModelError | GuideError):
            return JSONResponse(error_json(str(error), kind=_INVALID), 400)
        status = 504 if isinstance(error, DeadlineError) else 500
        return JSONResponse(error_json(str(error), kind="server_error"), status)

    @app.exception_handler(RecursionError)
    async def too_deep(_: Request, error: RecursionError) -> JSONResponse:
        return JSONResponse(error_json("the request is nested too deep", kind=_INVALID), 400)

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> JSONResponse:
        code = "model_not_found" if error.status_code == 404 and "model" in error.detail else None
        return JSONResponse(error_json(error.detail, kind=_INVALID, code=code), error.status_code)

    return app


def _dialect(name: str | None, template: ChatTemplate) -> Dialect:
    return get_dialect(name or ("native" if template.takes_tools else DEFAULT_DIALECT))


def _explain(errors: Sequence[Json]) -> tuple[str | None, str]:
    """Return the field of the first validation error, and what is wrong with it."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return (where or None), f"{where}: {first['msg']}" if where else str(first["msg"])
