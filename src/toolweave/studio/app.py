"""The Studio as a web application: the page in both languages, sign-in, shared agents, and the API beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from html import escape
from typing import Annotated

import gradio as gr
from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from toolweave.errors import ToolweaveError
from toolweave.studio.api import api
from toolweave.studio.guard import SESSION_COOKIE, SHARE_COOKIE, Guard, Users
from toolweave.studio.pretend import PICTURES, picture
from toolweave.studio.shell import VISITOR, blocks, brand_icon, head, share_page, style, theme
from toolweave.studio.text import say
from toolweave.studio.workspace import Workspace
from toolweave.types import Lang

# What builds a page, where it is, and who the visitor is.
_Page = tuple[Callable[[Workspace, Lang], gr.Blocks], str, Callable[[Request], str | None]]
_MAX_UPLOAD = "50mb"
_MONTH = 30 * 24 * 3600


def create_app(workspace: Workspace, users: Users | None = None, hosts: Sequence[str] = ()) -> FastAPI:
    """Return the Studio of a workspace, which it closes at its end.

    `users` are those who may sign in; without any there is the local user, who need not. `hosts` are the only names
    that it answers to, if any are given.
    """
    users = users or Users()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        workspace.close()

    app = FastAPI(title="toolweave studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Guard, users=users)
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.include_router(api(workspace, users))
    _add_sign_in(app, users)

    @app.get("/")
    async def index(request: Request) -> RedirectResponse:
        return RedirectResponse(f"/{_language(request).value}/")

    @app.get("/favicon.ico")
    async def favicon() -> Response:
        return Response(brand_icon(), media_type="image/svg+xml", headers={"cache-control": "max-age=86400"})

    @app.get(PICTURES + "/{seed}.svg")
    async def simulated_picture(seed: str) -> Response:
        return Response(picture(seed), media_type="image/svg+xml", headers={"cache-control": "max-age=86400"})

    @app.exception_handler(ToolweaveError)
    async def refused(_: Request, error: ToolweaveError) -> JSONResponse:
        return JSONResponse({"success": False, "error": {"message": str(error)}}, 400)

    def visitor(request: Request) -> str | None:
        key = request.cookies.get(SHARE_COOKIE, "")
        return f"{VISITOR}{key}" if workspace.shares.get(key) else None

    for lang in Lang:
        pages: tuple[_Page, ...] = (
            (blocks, f"/{lang.value}", users.of),
            (share_page, f"/share/page/{lang.value}", visitor),
        )
        for make, path, who in pages:
            gr.mount_gradio_app(
                app, make(workspace, lang), path, auth_dependency=who, theme=theme(), css=style(), head=head(),
                footer_links=[], ssr_mode=False, run_history=False, mcp_server=False, max_file_size=_MAX_UPLOAD,
            )  # fmt: skip

    @app.get("/share/{key}")
    async def shared(request: Request, key: str) -> Response:
        if workspace.shares.get(key) is None:
            return HTMLResponse(f"<p>{say('shell.not_shared', _language(request))}</p>", 404)
        response = RedirectResponse(f"/share/page/{_language(request).value}/", 303)
        response.set_cookie(SHARE_COOKIE, key, httponly=True, samesite="lax", path="/share/")
        return response

    return app


def _add_sign_in(app: FastAPI, users: Users) -> None:
    @app.get("/login")
    async def sign_in_page(request: Request) -> HTMLResponse:
        return HTMLResponse(_sign_in_html(_language(request)))

    @app.post("/login")
    async def sign_in(request: Request, user: Annotated[str, Form()], password: Annotated[str, Form()]) -> Response:
        token = users.sign_in(user, password)
        if token is None:
            return HTMLResponse(_sign_in_html(_language(request), failed=True), 401)
        response = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(SESSION_COOKIE, token, _MONTH, httponly=True, samesite="lax", secure=secure)
        return response

    @app.post("/logout")
    async def sign_out(request: Request) -> RedirectResponse:
        users.sign_out(request.cookies.get(SESSION_COOKIE, ""))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(SESSION_COOKIE)
        return response


def _sign_in_html(lang: Lang, *, failed: bool = False) -> str:
    words = {key: escape(say(f"shell.{key}", lang)) for key in ("title", "user", "password", "sign_in")}
    note = f'<p role="alert">{escape(say("shell.sign_in_failed", lang))}</p>' if failed else ""
    return f"""<!doctype html><html lang="{lang.value}"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{words["title"]}</title>
<style>body{{font:16px system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;background:#f8fafc;
color:#0f172a}}form{{display:grid;gap:14px;width:300px;padding:28px;background:#fff;border:1px solid #e2e8f0;
border-radius:14px}}h1{{font-size:20px;margin:0}}label{{display:grid;gap:4px}}input,button{{font:inherit;padding:9px;
border-radius:8px;border:1px solid #94a3b8}}button{{background:#0f766e;color:#fff;border:0}}p{{color:#b91c1c;margin:0}}
</style><main><form method="post" action="/login"><h1>{words["title"]}</h1>{note}
<label>{words["user"]}<input name="user" autocomplete="username" required></label>
<label>{words["password"]}<input name="password" type="password" autocomplete="current-password" required></label>
<button>{words["sign_in"]}</button></form></main></html>"""


def _language(request: Request) -> Lang:
    return Lang.ZH if request.headers.get("accept-language", "").lower().startswith("zh") else Lang.EN
