"""The recording proxy: real HTTP between real processes; what is answered is recorded, and passes unchanged."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from openai import OpenAI

from stub_server import serve
from toolweave.agents import RolePlay
from toolweave.data.jsonl import read_samples
from toolweave.data.load import load_samples
from toolweave.data.strategy import Strategy
from toolweave.dialects import dialect_of
from toolweave.errors import ServerError
from toolweave.models.base_models import load_template
from toolweave.models.client import ModelClient
from toolweave.models.scripted import ScriptedModel
from toolweave.tools.registry import make_tool
from toolweave.tools.simulate import Recorded
from toolweave.traces.capture import HEALTH_PATH, CaptureProxy, capture
from toolweave.traces.export import Selection, export
from toolweave.traces.recorder import Recorder
from toolweave.traces.recording import RecordingModel
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import Outcome, Verdict
from toolweave.types import ToolCall
from waiting import wait_until

EXCHANGES = Path(__file__).parent / "fixtures" / "exchanges"
KEY = "sk-veryverysecret0123456789"
CALL = '工具调用\nAction: amap_weather\nAction Input: {"location": "朝阳区"}\n'


def chunk(text: str | None, finish: str | None = None) -> str:
    choice = {"index": 0, "delta": {"content": text} if text is not None else {}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n"


def answer(text: str | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **more}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage, "id": "x", "model": "m", "object": "chat.completion", "created": 1}  # fmt: skip  # noqa: E501


class Upstream:
    """A scripted server that keeps what it was sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.replies: list[str] = []
        self.calls: list[list[dict[str, Any]]] = []
        self.left = asyncio.Event()
        self.app = FastAPI()
        self.app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        self.app.add_api_route("/v1/completions", self.raw, methods=["POST"], response_model=None)
        self.app.add_api_route("/v1/models", self.models, response_model=None)

    async def chat(self, request: Request) -> Response:
        self.bodies.append(await request.body())
        self.headers.append(dict(request.headers))
        body = json.loads(self.bodies[-1])
        asked = str(body["messages"][-1]["content"])
        if asked == "refuse":
            return JSONResponse({"error": {"message": "no such model"}}, 404, headers={"x-reason": "model"})
        if body.get("stream"):
            return StreamingResponse(self.stream(asked), media_type="text/event-stream")
        if self.calls:
            return JSONResponse(answer(None, "tool_calls", tool_calls=self.calls.pop(0)))
        return JSONResponse(answer(self.replies.pop(0) if self.replies else f"echo: {asked}"))

    async def stream(self, asked: str) -> AsyncIterator[str]:
        yield chunk("你")
        if asked == "hang":
            try:
                await asyncio.sleep(60)
            finally:
                self.left.set()
        if asked == "break":
            raise ConnectionError("the server falls over")
        yield chunk("好")
        yield chunk(None, "stop")
        yield "data: [DONE]\n\n"

    async def raw(self, request: Request) -> Response:
        self.bodies.append(await request.body())
        return JSONResponse({"choices": [{"index": 0, "text": " 晴", "finish_reason": "length"}]})

    async def models(self) -> Response:
        return Response(b'{"data":  [ {"id":"m"} ]}', media_type="application/json", headers={"x-own": "1"})


@contextmanager
def capturing(upstream: str, store: Path, *options: str, limit: int | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the URL of a proxy in a process of its own, and the process; `limit` is the size files may have."""

    def confine() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "toolweave", "capture", "--upstream", upstream, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [*command, "--store", str(store), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=confine,
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert "OPENAI_BASE_URL=" in ready, process.communicate()[1]
        yield ready.split("OPENAI_BASE_URL=")[1].split("/v1")[0], process
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def upstream() -> Iterator[tuple[str, Upstream]]:
    server = Upstream()
    with serve(server.app) as url:
        yield url, server


@pytest.fixture
def proxy(upstream: tuple[str, Upstream], tmp_path: Path) -> Iterator[tuple[str, Upstream, Path]]:
    """A proxy in front of the scripted server: its URL, the server, and the store."""
    store = tmp_path / "traces.db"
    with capturing(f"{upstream[0]}/v1", store) as (url, _):
        yield url, upstream[1], store


def ask(url: str, content: str, **more: Any) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=30)


def test_answers_pass_unchanged_and_are_recorded(proxy: tuple[str, Upstream, Path]) -> None:
    url, server, path = proxy
    assert ask(url, "hi").json() == answer("echo: hi")
    streamed = ask(url, "hi", stream=True)
    assert streamed.text == chunk("你") + chunk("好") + chunk(None, "stop") + "data: [DONE]\n\n"
    refused = ask(url, "refuse")
    assert (refused.status_code, refused.json(), refused.headers["x-reason"]) == (
        404, {"error": {"message": "no such model"}}, "model")  # fmt: skip
    models = httpx.get(f"{url}/v1/models")
    assert models.content == b'{"data":  [ {"id":"m"} ]}'
    assert models.headers["x-own"] == "1"
    raw = httpx.post(f"{url}/v1/completions", json={"model": "m", "prompt": "天气"})
    assert raw.json()["choices"][0]["text"] == " 晴"
    assert httpx.get(f"{url}/v1/nothing").status_code == 404
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    with TraceStore(path) as store:
        traces = list(store.traces())
    assert [(t.reply.text, t.reply.finish_reason, t.exchange.outcome) for t in traces] == [
        ("echo: hi", "stop", Outcome.ANSWERED),
        ("你好", "stop", Outcome.ANSWERED),
        ("", "", Outcome.REFUSED),
        (" 晴", "length", Outcome.ANSWERED),
    ]
    assert (traces[0].reply.prompt_tokens, traces[0].reply.completion_tokens) == (7, 3)
    assert traces[1].exchange.first_token is not None
    assert traces[1].exchange.first_token <= traces[1].exchange.latency
    assert httpx.get(url + HEALTH_PATH).json()["recorded"] == 4
    assert not any(KEY.encode() in file.read_bytes() for file in path.parent.iterdir())


def test_a_stream_passes_chunk_by_chunk_and_ends_upstream_when_the_app_leaves(
    proxy: tuple[str, Upstream, Path],
) -> None:
    url, server, path = proxy
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hang"}]}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as response:
        assert next(response.iter_text()) == chunk("你")  # the server has said no more than this
    wait_until(server.left.is_set)
    with TraceStore(path) as store:
        wait_until(lambda: store.counts().traces == 1)
        (trace,) = store.traces()
    assert (trace.exchange.outcome, trace.reply.text) == (Outcome.CLIENT_LEFT, "你")


def test_a_time_out_of_the_app_ends_the_upstream(proxy: tuple[str, Upstream, Path]) -> None:
    url, server, _ = proxy
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hang"}]}
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=1) as response,
    ):
        response.read()
    wait_until(server.left.is_set)


def test_what_breaks_off_breaks_off(proxy: tuple[str, Upstream, Path]) -> None:
    url, _, path = proxy
    with pytest.raises(httpx.RemoteProtocolError):
        ask(url, "break", stream=True)
    with TraceStore(path) as store:
        (trace,) = store.traces()
    assert (trace.exchange.outcome, trace.reply.text) == (Outcome.BROKEN_OFF, "你")


def test_no_server_is_said_like_an_api_error(tmp_path: Path) -> None:
    with capturing("http://127.0.0.1:9/v1", tmp_path / "t.db") as (url, _):
        response = ask(url, "hi")
    assert response.status_code == 502
    assert "no answer from http://127.0.0.1:9/v1" in response.json()["error"]["message"]


def test_the_openai_client_streams_tools_through(proxy: tuple[str, Upstream, Path]) -> None:
    url, server, path = proxy
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    client = OpenAI(base_url=f"{url}/v1", api_key=KEY)
    stream: Any = client.chat.completions.create(
        model="m", stream=True, tools=[tool], messages=[{"role": "user", "content": "hi"}]
    )
    with client, stream:
        assert "".join(part.choices[0].delta.content or "" for part in stream) == "你好"
    assert json.loads(server.bodies[0])["tools"] == [tool]
    with TraceStore(path) as store:
        assert [spec.name for trace in store.traces() for spec in trace.tools] == ["f"]


@pytest.mark.parametrize("version", ["v06", "v07"])
def test_exported_rows_are_the_requests_that_the_real_client_sent(
    version: str, proxy: tuple[str, Upstream, Path], tmp_path: Path
) -> None:
    url, server, path = proxy
    scenarios = json.loads((EXCHANGES / f"roleplay_{version}.json").read_text("utf-8"))
    sent: list[tuple[list[Any], str]] = []
    for scenario in scenarios.values():
        for request, reply in zip(scenario["requests"], scenario["model_replies"], strict=False):
            if request["path"] == "/v1/chat/completions" and not request["body"].get("stream"):
                server.replies = [reply]
                httpx.post(url + request["path"], json=request["body"], timeout=30).raise_for_status()
                sent.append((json.loads(server.bodies[-1])["messages"], reply))
    with TraceStore(path) as store:
        for trace in store.traces():
            store.review(trace.id, Verdict.ACCEPTED, "test")
        # Each visit is one chain, whatever the model did in it.
        chats = [visit for visit in store.visits() if visit.traces[0].messages]
        assert sorted(len(visit.traces) for visit in chats) == [1, 1, 1, 2, 2, 2, 2, 2, 2, 10]
        report = export(store, tmp_path / "rows.jsonl", (), Selection(near=1))
    rows = list(read_samples(tmp_path / "rows.jsonl"))
    assert report.rows == len(rows) > 10
    assert report.rows + report.left_out["near-duplicate"] == len(sent)
    recorded = [(messages, reply.split("Observation:")[0].strip()) for messages, reply in sent]
    for row in rows:
        assert (list(row.messages), row.completion.split("Observation:")[0].strip()) in recorded
        assert row.stop == ("Observation:", "Observation:\n")
        assert row.meta["reviewer"] == "test"


def test_exported_rows_of_native_calls_are_the_requests_that_were_sent(
    proxy: tuple[str, Upstream, Path], tmp_path: Path
) -> None:
    url, server, path = proxy
    arguments = '{"location": "朝阳区"}'
    call = {"id": "call_x", "type": "function", "function": {"name": "amap_weather", "arguments": arguments}}
    server.calls, server.replies = [[call]], ["晴，12度。", "不客气。"]
    weather = Recorded(make_tool("amap_weather").spec(), {arguments: "朝阳区的天气是晴温度是12度。"})
    model = ModelClient({"model": "m", "api_base": f"{url}/v1", "api_key": KEY})
    bot = RolePlay([weather], model, {"name": "天气助手"}, dialect="openai")
    assert "".join(bot.run("天气？")).endswith("晴，12度。")
    history = [{"role": "user", "content": "天气？"}, {"role": "assistant", "content": "晴，12度。"}]
    assert "".join(bot.run("谢谢", history)).endswith("不客气。")
    httpx.post(f"{url}/v1/chat/completions", json={**json.loads(server.bodies[0]), "tool_choice": "required"})
    with TraceStore(path) as store:
        found = store.visits()
        assert [[trace.turn for trace in visit.traces] for visit in found] == [[0], [0, 0, 1]]
        assert [trace.query for trace in found[1].traces] == ["天气？", "天气？", "谢谢"]
        assert found[1].agent == "天气助手"
        for trace in store.traces():
            store.review(trace.id, Verdict.ACCEPTED, "test")
        report = export(store, tmp_path / "rows.jsonl", (), Selection(near=1))
    assert report.left_out == {"the request forces or forbids calls, which no prompt tells": 1}
    loaded = load_samples(tmp_path / "rows.jsonl", strategy=Strategy.ERROR)  # checks each call against its tool
    calling, answering, _ = loaded.samples
    for row, body in zip(loaded.samples, map(json.loads, server.bodies), strict=False):
        assert list(row.messages) == body["messages"]
        assert [tool.openai() for tool in row.tools] == body["tools"]
    assert answering.messages[-2]["tool_calls"] == [call]
    dialect = dialect_of(calling)
    assert dialect is not None
    # The server gives a call its id, the model does not write it.
    assert calling.completion == f'<tool_call>\n{{"name": "amap_weather", "arguments": {arguments}}}\n</tool_call>'
    assert dialect.parse(calling.completion).calls == (ToolCall("amap_weather", {"location": "朝阳区"}),)
    assert answering.completion == "晴，12度。"


def test_exported_rows_of_raw_completions_are_the_prompts_that_were_sent(
    proxy: tuple[str, Upstream, Path], tiny_model_dir: Path, tmp_path: Path
) -> None:
    url, server, path = proxy
    prompt = "<|im_start|>user\n天气？<|im_end|>\n<|im_start|>assistant\n"
    for sent in ({"prompt": prompt}, {"prompt": ["a", "b"]}, {"prompt": "x", "echo": True}):
        httpx.post(f"{url}/v1/completions", json={"model": "m", **sent}).raise_for_status()
    with TraceStore(path) as store:
        for trace in store.traces():
            store.review(trace.id, Verdict.ACCEPTED, "test")
        report = export(store, tmp_path / "rows.jsonl", ())
    assert report.left_out == {"a raw completion that is not one prompt and its reply": 2}
    (row,) = load_samples(tmp_path / "rows.jsonl", strategy=Strategy.ERROR).samples
    assert row.raw_prompt == json.loads(server.bodies[0])["prompt"] == prompt
    assert row.completion == " 晴"
    # No chat template goes over it: training sees the tokens that the server sees, here those of a chat.
    template = load_template(str(tiny_model_dir))
    assert template.request_ids(row) == template.tokenizer(prompt)["input_ids"]
    assert template.request_ids(row) == template.prompt_ids([{"role": "user", "content": "天气？"}])


def test_kill_9_under_load_loses_no_answered_request(upstream: tuple[str, Upstream], tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    answered: list[str] = []

    async def user(client: httpx.AsyncClient, url: str, number: int) -> None:
        for count in range(10_000):
            query = f"query {number}-{count}"
            stream = count % 2 == 0
            body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": query}]}
            try:
                response = await client.post(f"{url}/v1/chat/completions", json=body)
            except httpx.TransportError:
                return
            # An answer is one that came to its end.
            if response.status_code == 200 and (not stream or response.text.endswith("[DONE]\n\n")):
                answered.append(query)

    async def load(url: str, process: Any) -> None:
        async def kill() -> None:
            while len(answered) < 150:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGKILL)

        async with httpx.AsyncClient(timeout=60) as client:
            await asyncio.gather(kill(), *(user(client, url, number) for number in range(20)))

    with capturing(f"{upstream[0]}/v1", path) as (url, process):
        asyncio.run(load(url, process))
    with TraceStore(path) as store:
        recorded = {trace.query for trace in store.traces()}
    assert len(answered) >= 150
    assert set(answered) <= recorded


def test_a_locked_store_costs_no_answer_and_is_made_up_for(proxy: tuple[str, Upstream, Path]) -> None:
    url, _, path = proxy
    assert ask(url, "before").status_code == 200
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    try:
        for number in range(5):
            assert ask(url, f"locked {number}").json() == answer(f"echo: locked {number}")
        health = httpx.get(url + HEALTH_PATH).json()
        assert (health["status"], health["recorded"], health["waiting"]) == ("not recording", 1, 5)
        assert "locked" in health["problem"]
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    wait_until(lambda: httpx.get(url + HEALTH_PATH).json()["recorded"] == 6)
    assert httpx.get(url + HEALTH_PATH).json()["status"] == "ok"
    with TraceStore(path) as store:
        assert store.counts().traces == 6


def test_a_full_disk_costs_no_answer_and_is_counted(upstream: tuple[str, Upstream], tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    TraceStore(path, create=True).close()
    with capturing(f"{upstream[0]}/v1", path, limit=200_000) as (url, process):
        for number in range(8):
            asked = f"{number}" * 40_000
            assert ask(url, asked).json() == answer(f"echo: {asked}")
        health = httpx.get(url + HEALTH_PATH).json()
        assert health["status"] == "not recording"
        assert health["recorded"] + health["waiting"] == 8
        assert health["waiting"] > 0
        process.terminate()
        assert "not recording, answers pass through" in (log := process.communicate(timeout=20)[1])
        assert f"{health['waiting']} exchanges were not recorded" in log


def test_the_backlog_has_an_end(tmp_path: Path) -> None:
    with TraceStore(tmp_path / "t.db", create=True, patience=0.01) as store:
        lock = sqlite3.connect(tmp_path / "t.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        model = RecordingModel(ScriptedModel(["a"] * 5), Recorder(store, backlog=3))
        for _ in range(5):
            assert list(model.complete([{"role": "user", "content": "hi"}], ())) == ["a"]
        state = model.recorder.state
        assert (state.recorded, state.waiting, state.lost) == (0, 3, 2)
        lock.close()
        model.recorder.close()
        assert (model.recorder.state.recorded, store.counts().traces) == (3, 3)


def test_role_play_records_without_a_proxy(tmp_path: Path) -> None:
    weather = Recorded(make_tool("amap_weather").spec(), {'{"location": "朝阳区"}': "朝阳区的天气是晴温度是12度。"})
    with TraceStore(tmp_path / "t.db", create=True) as store:
        model = RecordingModel(ScriptedModel([CALL + "Observation: x", " 晴，12度。"], chunk=3), store)
        bot = RolePlay([weather], model, "天气助手")
        assert "".join(bot.run("朝阳区天气怎样？")).endswith("晴，12度。")
        (visit,) = store.visits()
        assert [trace.exchange.outcome for trace in visit.traces] == [Outcome.ANSWERED] * 2
        assert visit.traces[0].reply.text.startswith(CALL)
        assert visit.traces[0].exchange.source == "role_play"
        assert (visit.query, visit.agent) == ("朝阳区天气怎样？", "天气助手")
        model.recorder.close()


def test_model_client_and_role_play_work_through_the_proxy(proxy: tuple[str, Upstream, Path]) -> None:
    url, server, path = proxy
    server.replies = [CALL, "晴，12度。"]
    weather = Recorded(make_tool("amap_weather").spec(), {'{"location": "朝阳区"}': "朝阳区的天气是晴温度是12度。"})
    bot = RolePlay([weather], ModelClient({"model": "m", "api_base": f"{url}/v1", "api_key": KEY}), "天气助手")
    assert "".join(bot.run("朝阳区天气怎样？")).endswith("晴，12度。")
    with TraceStore(path) as store:
        (visit,) = store.visits()
    assert [trace.turn for trace in visit.traces] == [0, 0]


@pytest.mark.parametrize(
    ("upstream_url", "path", "target"),
    [
        ("http://h:1/v1", "/v1/chat/completions", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/", "/health", "http://h:1/health"),
        ("http://h:1", "/v1/models", "http://h:1/v1/models"),
        ("https://h/api/paas/v4", "/v1/chat/completions", "https://h/api/paas/v4/chat/completions"),
        ("https://h/compatible-mode/v1", "/compatible-mode/v1/models", "https://h/compatible-mode/v1/models"),
        ("http://h:1/v1", "//evil/v1/x", "http://h:1//evil/v1/x"),
    ],
)
def test_where_requests_go(upstream_url: str, path: str, target: str, tmp_path: Path) -> None:
    with TraceStore(tmp_path / "t.db", create=True) as store:
        recorder = Recorder(store)
        assert CaptureProxy(upstream_url, recorder).url(path) == target
        with pytest.raises(ServerError, match="no server's URL"):
            CaptureProxy("localhost:8000", recorder)
        recorder.close()


def test_what_the_proxy_sends_does_not_wait_for_acknowledgements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[int] = []

    def run(_: uvicorn.Server, sockets: list[socket.socket]) -> None:
        with socket.create_connection(sockets[0].getsockname()):
            accepted, _ = sockets[0].accept()
            with accepted:
                at_once.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # what `capture` changes in the process stays as it was
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    with TraceStore(tmp_path / "t.db", create=True) as store:
        recorder = Recorder(store)
        capture("http://127.0.0.1:9/v1", recorder, port=0)
        recorder.close()
    assert at_once
    assert all(at_once)
