"""The model client: presets, AgentFabric's config entries, native calls, retries, async, secrets, dialects told."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from stub_server import serve
from toolweave.agents import RolePlay
from toolweave.agents.events import Answered, Observed
from toolweave.errors import ServerError
from toolweave.models.client import ModelClient
from toolweave.models.presets import PRESETS
from toolweave.tools.simulate import Simulated
from toolweave.types import ToolSpec
from toolweave.weights.manifest import Manifest

WEATHER = ToolSpec(
    "weather", "Weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)
ENTRIES = {
    "qwen-max": {
        "type": "dashscope",
        "model": "qwen-max",
        "length_constraint": {"knowledge": 4000, "input": 6000},
        "generate_cfg": {"use_raw_prompt": True, "top_p": 0.8},
    },
    "glm-4": {"type": "zhipu", "model": "glm-4"},
    "old": {"type": "dashscope_qwen1.5", "model": "qwen1.5-7b-chat"},
    "local": {"type": "openai", "model": "m", "api_base": "http://h/v1", "is_chat": True, "is_function_call": False},
}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for preset in PRESETS.values():
        monkeypatch.delenv(preset.key_name, raising=False)
        monkeypatch.delenv(preset.url_name or "x", raising=False)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_entries_of_model_config_load_unchanged(entry: dict[str, Any]) -> None:
    bot = RolePlay([], entry)
    assert bot.llm.model == entry["model"]


def test_knowledge_is_cut_as_the_entry_says() -> None:
    bot = RolePlay([], {"model": "m", "dialect": "v06", "length_constraint": {"knowledge": 5}})
    prompt = bot._informed(bot._prompt("?", (), "zh", ()), "0123456789", ())
    assert "\n\n01234\n\n" in bot.dialect.start(prompt)[0]["content"]


class Server:
    """Answers by native calls, then with text; keeps the bodies, and fails as often as it is told."""

    def __init__(self, failures: int = 0, dialect: str | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.asked = 0
        self._failures, self._dialect = failures, dialect
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.get("/v1/models")(self.models)

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "m", "object": "model", "dialect": self._dialect}]}

    async def chat(self, request: Request) -> Any:
        self.asked += 1
        if self.asked <= self._failures:
            return JSONResponse(
                {"error": {"message": f"overloaded {self.asked}"}}, 503, headers={"retry-after-ms": "1"}
            )
        self.bodies.append(await request.json())
        done = self.bodies[-1]["messages"][-1]["role"] == "tool" or "tools" not in self.bodies[-1]
        calls = [
            {
                "id": f"call_{n}",
                "type": "function",
                "function": {"name": "weather", "arguments": json.dumps({"city": n})},
            }
            for n in ("Oslo", "Rome")
        ]
        message = {"role": "assistant", "content": "sunny" if done else None, "tool_calls": None if done else calls}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        if not self.bodies[-1].get("stream"):
            return head | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        return StreamingResponse(self._chunks(head, message), media_type="text/event-stream")

    def _chunks(self, head: dict[str, Any], message: dict[str, Any]) -> Iterator[str]:
        deltas: list[dict[str, Any]] = [{"content": message["content"]}]
        for index, call in enumerate(message["tool_calls"] or ()):
            function = call["function"]
            deltas.append(
                {"tool_calls": [{"index": index, "id": call["id"], "function": {**function, "arguments": ""}}]}
            )
            deltas += [{"tool_calls": [{"index": index, "function": {"arguments": c}}]} for c in function["arguments"]]
        for delta in deltas:
            chunk = head | {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("use_async", [False, True])
def test_native_calls_go_over_the_wire_as_openai_says(stream: bool, use_async: bool) -> None:
    server = Server()

    async def collect(bot: RolePlay) -> list[Any]:
        return [event async for event in bot.arun_events("?", lang="en")]

    with serve(server.app) as url:
        llm = {"model": "m", "api_base": f"{url}/v1", "is_function_call": True, "support_stream": stream}
        bot = RolePlay([Simulated(WEATHER)], llm, "r")
        events = asyncio.run(collect(bot)) if use_async else list(bot.run_events("?", lang="en"))
    first, second = server.bodies
    assert first["tools"] == [WEATHER.openai()]
    assert "stop" not in first
    said, *results = second["messages"][2:]
    assert [call["id"] for call in said["tool_calls"]] == ["call_Oslo", "call_Rome"]
    assert [(result["role"], result["tool_call_id"]) for result in results] == [
        ("tool", "call_Oslo"),
        ("tool", "call_Rome"),
    ]
    assert len([event for event in events if isinstance(event, Observed) and not event.error]) == 2
    assert events[-1] == Answered("sunny")


def test_a_failing_server_is_asked_again_and_the_last_error_is_told() -> None:
    server = Server(failures=2)
    with serve(server.app) as url:
        assert "".join(RolePlay([], {"model": "m", "api_base": f"{url}/v1"}).run("?")) == "sunny"
    assert server.asked == 3
    server = Server(failures=9)
    with serve(server.app) as url, pytest.raises(ServerError, match="HTTP 503: overloaded 2"):
        list(RolePlay([], {"model": "m", "api_base": f"{url}/v1", "max_retries": 1}).run("?"))


def test_no_log_holds_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(Server(failures=1).app) as url:
        client = ModelClient({"model": "m", "api_base": f"{url}/v1", "api_key": "sk-secret-1"})
        assert "".join(client.complete([{"role": "user", "content": "hi"}], [])) == "sunny"
    assert caplog.text
    assert "sk-secret-1" not in caplog.text
    assert "sk-secret-1" not in repr(vars(client))


def test_a_slow_server_is_given_up() -> None:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat() -> dict[str, str]:
        await asyncio.sleep(1)
        return {}

    with serve(app) as url, pytest.raises(ServerError, match="did not answer in time"):
        list(RolePlay([], {"model": "m", "api_base": f"{url}/v1", "timeout": 0.1, "max_retries": 0}).run("?"))


def test_azure_is_asked_at_the_deployment() -> None:
    app, seen = FastAPI(), dict[str, Any]()

    @app.post("/openai/deployments/gpt/chat/completions")
    async def chat(request: Request) -> dict[str, Any]:
        seen.update(request.query_params, key=request.headers["api-key"])
        message = {"role": "assistant", "content": "hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": "gpt", "choices": [choice]}

    with serve(app) as url:
        llm = {"model_server": "azure_openai", "model": "gpt", "azure_endpoint": url, "api_key": "k"}
        assert "".join(RolePlay([], llm).run("?")) == "hi"
    assert seen == {"api-version": "2024-06-01", "key": "k"}
    with pytest.raises(ServerError, match="AZURE_OPENAI_ENDPOINT"):
        ModelClient({"model_server": "azure_openai", "model": "gpt"})


@pytest.mark.parametrize(
    ("told", "named", "expected"),
    [
        ("agentfabric-v07", None, "agentfabric-v07"),
        ("hermes", None, "hermes"),
        (None, None, "agentfabric-v06"),
        ("hermes", "v07", "agentfabric-v07"),
    ],
)
def test_the_server_tells_the_dialect_and_the_config_decides(
    told: str | None, named: str | None, expected: str
) -> None:
    with serve(Server(dialect=told).app) as url:
        llm = {"model": "m", "api_base": f"{url}/v1"} | ({"dialect": named} if named else {})
        assert RolePlay([], llm).dialect.name == expected


def test_the_manifest_beside_the_weights_tells_the_dialect(tmp_path: Path) -> None:
    Manifest("base", "hash", ("agentfabric-v07", "agentfabric-v06")).save(tmp_path)
    llm = {"model_server": "vllm", "model": str(tmp_path), "api_base": "http://127.0.0.1:9/v1"}
    assert RolePlay([], llm).dialect.name == "agentfabric-v07"
