"""The Studio without a browser: AgentFabric's routes, archives, and each agent as an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile as StarletteUpload

from toolweave.agents.memory import load_history, save_history
from toolweave.agents.spec import AgentSpec, FileKind
from toolweave.errors import DataError, ToolweaveError
from toolweave.models.presets import Endpoint
from toolweave.serving.protocol import ChatRequest
from toolweave.studio.builder import GUIDE, Builder
from toolweave.studio.cast import cast
from toolweave.studio.form import avatar_file
from toolweave.studio.guard import Users
from toolweave.studio.plugins import fetch
from toolweave.studio.replies import answer_pieces
from toolweave.studio.sharing import Share
from toolweave.studio.workspace import Home, Workspace, file_name, part
from toolweave.tools.registry import TOOL_REGISTRY
from toolweave.types import Json, Lang, Message

_SSE = "text/event-stream"
Params = Annotated[str, Form()]
Uploads = Annotated[list[UploadFile] | None, File()]


def api(workspace: Workspace, users: Users) -> APIRouter:
    """Return the routes. `uuid` in AgentFabric's routes is the key of an agent."""
    routes = APIRouter()

    def home(request: Request) -> Home:
        user = users.of(request)
        if user is None:
            raise HTTPException(401, "sign in first")
        return workspace.home(user)

    # --- AgentFabric's routes ----------------------------------------------------------------

    @routes.post("/builder/chat/{agent}")
    def build_by_chat(request: Request, agent: str, params: Params) -> StreamingResponse:
        own = home(request)
        asked = _params(params)
        spec = own.agent(agent)
        model = spec.model if own.can_build(spec.model) else GUIDE
        builder = Builder(own, agent, spec.lang)

        def frames() -> Iterator[str]:
            said = ""
            try:
                for built in builder.chat(asked, model):
                    said = built.answer
                    changed = {"config": own.agent(agent).builder} if built.config else {}
                    yield _event({"data": said, **changed, "is_final": False})
            except ToolweaveError as error:
                said = said or str(error)
            yield _event({"data": said, "is_final": True, "request_id": _id(request)})

        return StreamingResponse(frames(), media_type=_SSE)

    @routes.get("/builder/chat/{agent}")
    def builder_history(request: Request, agent: str) -> Json:
        return _success(request, history=list(Builder(home(request), agent, Lang.ZH).history))

    @routes.delete("/builder/chat/{agent}")
    def forget_builder(request: Request, agent: str) -> Json:
        Builder(home(request), agent, Lang.ZH).forget()
        return _success(request)

    @routes.get("/builder/config/{agent}")
    def config(request: Request, agent: str) -> Json:
        spec = home(request).agent(agent)
        available = [entry.key for entry in spec.tools if entry.key in TOOL_REGISTRY]
        data = {
            "builder_config": spec.builder, "model_config": home(request).models(), "tool_config": spec.tool_config,
            "available_tool_list": available,
        }  # fmt: skip
        return _success(request, data=data)

    @routes.get("/builder/config_files/{agent}/{name}")
    def config_file(request: Request, agent: str, name: str, as_attachment: bool = False) -> FileResponse:
        spec = home(request).agent(agent)
        allowed = {path.name: path for path in (*spec.knowledge_files(), *filter(None, [avatar_file(spec)]))}
        if name not in allowed:
            raise HTTPException(404, f"the agent has no file {name!r}")
        return FileResponse(allowed[name], filename=name if as_attachment else None)

    @routes.post("/builder/update/{agent}")
    def update(request: Request, agent: str, builder_config: Annotated[str, Form()], files: Uploads = None) -> Json:
        own = home(request)
        builder = _object(builder_config, "builder_config")
        folder = own.agent_folder(agent)
        folder.mkdir(parents=True, exist_ok=True)
        for file in files or ():
            if file_name(file.filename or "") in [kind.file_name for kind in FileKind]:
                raise HTTPException(400, f"{file.filename} is a configuration file")
            with (folder / file_name(file.filename or "")).open("wb") as target:
                shutil.copyfileobj(file.file, target)
        builder["knowledge"] = [file_name(str(name)) for name in builder.get("knowledge") or ()]
        known = own.agent(agent) if (folder / FileKind.BUILDER.file_name).is_file() else None
        own.save_agent(agent, replace(known or AgentSpec(), builder=builder))
        return _success(request)

    @routes.post("/builder/import/{agent}")
    async def import_over(request: Request, agent: str) -> Json:
        own = home(request)
        with TemporaryDirectory() as folder:
            archive = Path(folder, "agent.zip")
            async with request.form() as form:
                if isinstance(packed := form.get("file"), StarletteUpload):
                    archive.write_bytes(await packed.read())
            if not archive.exists():
                url = str((await request.json()).get("url", ""))
                archive.write_bytes(await run_in_threadpool(fetch, url))
            own.import_agent(archive, agent)
        return _success(request)

    @routes.get("/builder/publish/zip/{agent}")
    def publish(request: Request, agent: str) -> Json:
        spec = home(request).agent(agent)
        return _success(request, output_url=f"/agents/{agent}/archive.zip", envs_required=_variables(spec.llm()))

    @routes.post("/preview/chat/{agent}/{session}")
    def preview(request: Request, agent: str, session: str, params: Params, files: Uploads = None) -> StreamingResponse:
        own, asked = home(request), _params(params)
        history_file = own.conversations / part(agent) / f"{part(session)}_user.json"
        history = load_history(history_file)
        uploads = [str(_keep(own, session, file)) for file in files or ()]
        acting = cast(own, agent, f"api:{uuid.uuid4().hex[:12]}")

        def frames() -> Iterator[str]:
            said = ""
            try:
                for delta in acting.agent.run(asked, history=history, lang=acting.lang, append_files=uploads):
                    said += delta
                    yield _event({"data": said, "is_final": False, "request_id": _id(request)})
            except ToolweaveError as error:
                said += f"\n{error}"
            turn = [Message(role="user", content=asked), Message(role="assistant", content=said)]
            save_history(history_file, [*history, *turn])
            yield _event({"data": said, "is_final": True, "request_id": _id(request)})

        return StreamingResponse(frames(), media_type=_SSE)

    @routes.get("/preview/chat/{agent}/{session}")
    def preview_history(request: Request, agent: str, session: str) -> Json:
        path = home(request).conversations / part(agent) / f"{part(session)}_user.json"
        return _success(request, history=list(load_history(path)))

    @routes.delete("/preview/chat/{agent}/{session}")
    def forget_preview(request: Request, agent: str, session: str) -> Json:
        (home(request).conversations / part(agent) / f"{part(session)}_user.json").unlink(missing_ok=True)
        return _success(request)

    @routes.get("/preview/chat_file/{agent}/{session}")
    def preview_file(request: Request, agent: str, session: str, file_path: str) -> FileResponse:
        folder = home(request).uploads / part(session)
        path = folder / Path(file_path).name
        if not path.is_file() or path.is_symlink():
            raise HTTPException(404, "there is no such file")
        return FileResponse(path)

    # --- agents ------------------------------------------------------------------------------

    @routes.get("/agents/{agent}/archive.zip")
    def archive(request: Request, agent: str) -> FileResponse:
        # The folder has to outlive the call, until the file is sent.
        folder = TemporaryDirectory()
        target = Path(folder.name, "agent.zip")
        home(request).export_agent(agent, target)
        return FileResponse(target, filename=f"{agent}.zip", background=BackgroundTask(folder.cleanup))

    @routes.get("/agents/{agent}/avatar")
    def avatar(request: Request, agent: str) -> FileResponse:
        path = avatar_file(home(request).agent(agent))
        if path is None:
            raise HTTPException(404, "the agent has no avatar")
        return FileResponse(path)

    def keyed(request: Request, agent: str) -> Home:
        """Return the home to act in: that of the agent's key, if one is given, else the user's."""
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        if (share := workspace.shares.get(key)) is not None and share == Share(share.user, agent):
            return workspace.visitor(key)[0]
        return home(request)

    @routes.get("/agents/{agent}/v1/models")
    def models(request: Request, agent: str) -> Json:
        keyed(request, agent).agent(agent)
        about = {"id": agent, "object": "model", "created": 0, "owned_by": "toolweave"}
        return {"object": "list", "data": [about]}

    @routes.post("/agents/{agent}/v1/chat/completions", response_model=None)
    async def complete(request: Request, agent: str, body: ChatRequest) -> Response:
        own = keyed(request, agent)
        said = [message.to_message() for message in body.messages if message.role in ("user", "assistant")]
        if not said or said[-1]["role"] != "user":
            raise HTTPException(400, "messages: the last one must be the user's")
        pieces = answer_pieces(own, agent, said[-1]["content"], said[:-1])
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": agent}
        if body.stream:
            return StreamingResponse(_chunks(pieces, head), media_type=_SSE)
        text = "".join([piece async for piece in pieces])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice]})

    return routes


async def _chunks(pieces: AsyncIterator[str], head: Json) -> AsyncIterator[str]:
    def chunk(delta: Json, finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event({**head, "object": "chat.completion.chunk", "choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for piece in pieces:
            yield chunk({"content": piece})
    except ToolweaveError as error:
        yield _event({"error": {"message": str(error), "type": "server_error"}})
        return
    yield chunk({}, "stop")
    yield "data: [DONE]\n\n"


def _event(content: Json) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _id(request: Request) -> str:
    return request.headers.get("x-modelscope-request-id", "unknown")


def _success(request: Request, **content: Any) -> Json:
    return {"success": True, **content, "request_id": _id(request)}


def _params(params: str) -> str:
    return str(_object(params, "params").get("content") or "")


def _object(text: str, name: str) -> Json:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"{name} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{name} is not a JSON object")
    return found


def _keep(home: Home, session: str, file: UploadFile) -> Path:
    with TemporaryDirectory() as folder:
        path = Path(folder, file_name(file.filename or ""))
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target)
        return home.upload(session, path)


def _variables(llm: Json) -> Json:
    """Return the environment variables that whoever runs the agent has to set, as AgentFabric's publisher does."""
    return {Endpoint.of(llm).preset.key_name: ""} if Endpoint.of(llm).preset.needs_key else {}
