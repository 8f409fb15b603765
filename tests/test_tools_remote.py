"""Remote tools against local servers that speak the documented protocols."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_websocket

from stub_server import serve
from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool
from toolweave.tools.doc_search import DocSearch
from toolweave.tools.registry import make_tool
from toolweave.tools.web_browser import WebBrowser
from toolweave.tools.web_search import WebSearch

KEY = "key-0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLWEAVE_ALLOW_HOSTS", "127.0.0.1")
    for name in ("DASHSCOPE_API_KEY", "BING_SEARCH_V7_SUBSCRIPTION_KEY", "SEARXNG_URL", "BING_SEARCH_V7_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def call(tool: BaseTool, arguments: dict[str, Any], **kwargs: Any) -> str:
    return tool.call(json.dumps(arguments, ensure_ascii=False), **kwargs)


class DashScope:
    """Uploads, asynchronous tasks and one multimodal request."""

    def __init__(self) -> None:
        self.output: dict[str, Any] = {}
        self.tasks: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.uploads: list[tuple[dict[str, str], bytes, dict[str, str]]] = []
        self.url = ""
        self.app = FastAPI()
        self.app.get("/uploads")(self.policy)
        self.app.post("/oss")(self.store)
        self.app.get("/transcript")(lambda: {"transcripts": [{"text": "你好"}, {"text": "世界"}]})
        self.app.get("/tasks/{task}")(lambda: {"output": {"task_status": "SUCCEEDED"} | self.output})
        self.app.post("/services/{path:path}")(self.submit)

    async def policy(self, request: Request) -> Any:
        if request.headers["authorization"] != f"Bearer {KEY}":
            return JSONResponse({"message": f"bad key {request.headers['authorization']}"}, 401)
        names = ("oss_access_key_id", "signature", "policy", "x_oss_object_acl", "x_oss_forbid_overwrite")
        return {"data": dict.fromkeys(names, "v") | {"upload_dir": "dir", "upload_host": f"{self.url}/oss"}}

    async def store(self, request: Request) -> Any:
        async with request.form() as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            file: Any = form["file"]
            self.uploads.append((fields, await file.read(), dict(request.headers)))
        return Response()

    async def submit(self, path: str, request: Request) -> Any:
        self.tasks.append((path, await request.json(), dict(request.headers)))
        if path.startswith("aigc/multimodal"):
            return {"output": {"choices": [{"message": {"content": [{"text": "一只猫"}]}}]}}
        return {"output": {"task_id": "t", "task_status": "PENDING"}}


@pytest.fixture
def dashscope() -> Iterator[tuple[DashScope, dict[str, Any]]]:
    service = DashScope()
    with serve(service.app) as url:
        service.url = url
        yield service, {"api_key": KEY, "base_url": url, "interval": 0.01}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "猫.png").write_bytes(b"png")
    (tmp_path / "a.wav").write_bytes(b"wav")
    return [str(tmp_path / "猫.png"), str(tmp_path / "a.wav")]


Service = tuple[DashScope, dict[str, Any]]
OSS = "oss://dir/猫.png"


@pytest.mark.parametrize(
    ("name", "arguments", "output", "path", "sent"),
    [
        (
            "style_repaint",
            {"input.image_path": "/any/猫.png", "input.style_index": 3},
            {"results": [{"url": "https://x/1.png"}]},
            "aigc/image-generation/generation",
            {"model": "wanx-style-repaint-v1", "input": {"image_url": OSS, "style_index": 3}},
        ),
        (
            "image_enhancement",
            {"input.image_path": "猫.png", "parameters.upscale": 4},
            {"result_url": "https://x/1.png"},
            "enhance/image-enhancement/generation",
            {"model": "wanx-image-enhancement-v1", "input": {"image_url": OSS}, "parameters": {"upscale": 4}},
        ),
        (
            "wordart_texture_generation",
            {"input.text.text_content": "福", "input.prompt": "金"},
            {"results": [{"url": "https://x/1.png"}]},
            "aigc/wordart/texture",
            {
                "model": "wordart-texture",
                "input": {
                    "text": {"text_content": "福", "output_image_ratio": "1:1"},
                    "prompt": "金",
                    "texture_style": "material",
                },
                "parameters": {"n": 1},
            },
        ),
        (
            "image_gen",
            {"text": "猫", "resolution": "1024*1024"},
            {"choices": [{"message": {"content": [{"image": "https://x/1.png"}]}}]},
            "aigc/image-generation/generation",
            {
                "model": "wan2.6-t2i",
                "input": {"messages": [{"role": "user", "content": [{"text": "猫"}]}]},
                "parameters": {"size": "1280*1280", "n": 1},
            },
        ),
    ],
)
def test_picture_tasks(
    name: str, arguments: Any, output: Any, path: str, sent: Any, dashscope: Service, files: list[str]
) -> None:
    service, cfg = dashscope
    service.output = output
    heard: list[str] = []
    more = {"model": "wan2.6-t2i"} if name == "image_gen" else {}
    tool = make_tool({name: cfg | more})
    picture = call(tool, arguments, append_files=files, progress=heard.append)
    assert picture == "![IMAGEGEN](https://x/1.png)"
    assert heard == ["DashScope: SUCCEEDED"]
    ((asked, body, headers),) = service.tasks
    assert (asked, body) == (path, sent)
    assert headers["x-dashscope-async"] == "enable"
    service.output = {"task_status": "FAILED", "message": f"no, {KEY}"}
    with pytest.raises(ToolError, match=r"FAILED, no, \*\*\*"):
        call(tool, arguments, append_files=files)


def test_an_upload_goes_to_the_store_without_the_key(dashscope: Service, files: list[str]) -> None:
    service, cfg = dashscope
    answer = call(make_tool({"qwen_vl": cfg}), {"image_file_paths": "猫.png", "text": "是什么"}, append_files=files)
    assert answer == "一只猫"
    ((fields, content, headers),) = service.uploads
    assert (fields["key"], content, "authorization" in headers) == ("dir/猫.png", b"png", False)
    ((_, body, sent),) = service.tasks
    assert body["input"]["messages"][0]["content"] == [{"image": OSS}, {"text": "是什么"}]
    assert sent["x-dashscope-ossresourceresolve"] == "enable"
    for name, message in (("/etc/passwd", "no upload called 'passwd'"), ("a.wav", "is not one of")):
        with pytest.raises(ToolError, match=message):
            call(make_tool({"qwen_vl": cfg}), {"image_file_paths": name, "text": "?"}, append_files=files)


def test_speech_becomes_text(dashscope: Service, files: list[str]) -> None:
    service, cfg = dashscope
    service.output = {"results": [{"transcription_url": f"{service.url}/transcript"}]}
    tool = make_tool({"paraformer_asr": cfg})
    assert call(tool, {"audio_path": "a.wav"}, append_files=files) == "你好世界"
    assert service.tasks[0][1]["input"] == {"file_urls": ["oss://dir/a.wav"]}
    service.output = {"results": [{"transcription_url": "http://169.254.169.254/x"}]}
    with pytest.raises(ToolError, match="not a public address"):
        call(tool, {"audio_path": "a.wav"}, append_files=files)


def test_text_becomes_speech(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def answer(connection: ServerConnection) -> None:
        asked.append(json.loads(connection.recv()))
        text = asked[-1]["payload"]["input"]["text"]
        if text == "慢":
            return None
        connection.send(json.dumps({"header": {"event": "task-started"}}))
        if text == "坏":
            connection.send(json.dumps({"header": {"event": "task-failed", "error_message": f"no {KEY}"}}))
            return None
        connection.send(b"RI")
        connection.send(b"FF")
        return connection.send(json.dumps({"header": {"event": "task-finished"}}))

    with serve_websocket(answer, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base_url = f"http://127.0.0.1:{server.socket.getsockname()[1]}/api/v1"
        tool = make_tool({"sambert_tts": {"api_key": KEY, "base_url": base_url, "work_dir": str(tmp_path)}})
        sound = call(tool, {"text": "你好"})
        assert Path(sound.removeprefix('<audio src="').removesuffix('"/>')).read_bytes() == b"RIFF"
        assert asked[0]["payload"]["model"] == "sambert-zhijia-v1"
        with pytest.raises(ToolError, match=r"answered: no \*\*\*"):
            call(tool, {"text": "坏"})
        with pytest.raises(ToolError, match="cannot reach DashScope: ConnectionClosed"):
            call(tool, {"text": "慢"})
        server.shutdown()
        thread.join()


def test_our_key_never_goes_to_an_address_of_a_spec(dashscope: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "ours")
    tool = make_tool({"image_gen": {"base_url": dashscope[0].url}})
    with pytest.raises(ToolError, match="DASHSCOPE_API_KEY is not sent there"):
        call(tool, {"text": "猫", "resolution": "1024*1024"})
    assert dashscope[0].tasks == []


async def bing(request: Request) -> Any:
    if request.headers.get("ocp-apim-subscription-key") != KEY:
        return JSONResponse({"error": {"code": "401", "message": "denied"}}, 401)
    if request.query_params["q"] == "慢":
        await asyncio.sleep(1)
    pages = [{"name": f"n{number}", "url": f"https://x/{number}", "snippet": "s"} for number in range(9)]
    return {"webPages": {"value": pages}}


def test_web_search_by_bing() -> None:
    app = FastAPI()
    app.get("/search")(bing)
    with serve(app) as url:
        cfg = {"api_key": KEY, "base_url": f"{url}/search", "count": 2}
        found = json.loads(call(WebSearch(cfg), {"query": "天气"}))
        assert found[1] == {"title": "n1", "link": "https://x/1", "sniper": "s"}
        assert len(found) == 2
        with pytest.raises(ToolError, match="Bing answered: HTTP 401"):
            call(WebSearch(cfg | {"api_key": "x"}), {"query": "天气"})
        with pytest.raises(ToolError, match=r"did not answer within 0\.2 s"):
            call(WebSearch(cfg | {"timeout": 0.2}), {"query": "慢"})
    with pytest.raises(ToolError, match="BING_SEARCH_V7_SUBSCRIPTION_KEY is not set"):
        call(WebSearch(), {"query": "天气"})


def test_web_search_by_searxng(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FastAPI()
    app.get("/search")(lambda q, format: {"results": [{"title": q, "url": "https://x", "content": format}]})
    with serve(app) as url:
        monkeypatch.setenv("SEARXNG_URL", url)
        found = json.loads(call(WebSearch({"searcher": "bing"}), {"query": "天气"}))
    assert found == [{"title": "天气", "link": "https://x", "sniper": "json"}]


def test_the_browser_reads_what_a_reader_sees() -> None:
    page = "<html><head><title>题</title><style>no</style></head><body><p>一 <b>二</b><script>no</script></body></html>"
    app = FastAPI()
    app.get("/page")(lambda: Response(page, media_type="text/html"))
    app.get("/image")(lambda: Response(b"\x89PNG", media_type="image/png"))
    with serve(app) as url:
        assert call(WebBrowser(), {"urls": f"{url}/page"}) == "题\n一\n二"
        assert call(WebBrowser({"max_browser_length": 1}), {"urls": f"{url}/page"}) == "题"
        for path, message in (("image", "is image/png"), ("none", "answered HTTP 404")):
            with pytest.raises(ToolError, match=message):
                call(WebBrowser(), {"urls": f"{url}/{path}"})


class Found(NamedTuple):
    text: str
    source: str


class OneIndex:
    def search(self, query: str, k: int) -> list[Found]:
        return [Found(f"{query}{k}", "a.pdf, 2")] if query == "有" else []


def test_documents_are_searched() -> None:
    tool = DocSearch(OneIndex(), k=3)
    assert json.loads(call(tool, {"query": "有"})) == [{"source": "a.pdf, 2", "text": "有3"}]
    with pytest.raises(ToolError, match="say nothing about that"):
        call(tool, {"query": "无"})
