"""The Studio as a web application: the page in both languages, and the API beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from toolweave.studio.pretend import PICTURES, picture
from toolweave.studio.shell import blocks, style, theme
from toolweave.studio.workspace import Workspace
from toolweave.types import Lang

LANGUAGE_COOKIE = "studio_language"


def create_app(workspace: Workspace) -> FastAPI:
    """Return the Studio of a workspace, which it closes at its end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        workspace.close()

    app = FastAPI(title="toolweave studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.get("/")
    async def index(request: Request) -> RedirectResponse:
        return RedirectResponse(f"/{_language(request).value}/")

    @app.get(PICTURES + "/{seed}.svg")
    async def simulated_picture(seed: str) -> Response:
        return Response(picture(seed), media_type="image/svg+xml", headers={"cache-control": "max-age=86400"})

    for lang in Lang:
        gr.mount_gradio_app(
            app, blocks(workspace, lang), f"/{lang.value}", theme=theme(), css=style(), footer_links=[],
            ssr_mode=False, run_history=False, mcp_server=False,
        )  # fmt: skip
    return app


def _language(request: Request) -> Lang:
    wanted = request.cookies.get(LANGUAGE_COOKIE) or request.headers.get("accept-language", "")
    return Lang.ZH if wanted.lower().startswith("zh") else Lang.EN
