"""What a server must survive: too many clients, slow ones, hostile ones, a failing model, and being told to stop."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from torch import Tensor

from scripted_engine import TEMPLATE, ScriptedEngine, served
from test_serving import wait_until
from toolweave.errors import ServerError
from toolweave.serving.gatekeeper import Limits
from toolweave.serving.sampling import SamplingParams

KEY = "sk-密-secret"


def body(query: str = "hi", **options: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": query}], **options}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = ScriptedEngine({f"ask{n};": f"answer {n} " * 5 for n in range(100)}, max_batch=4)
    with served(engine, limits=Limits(max_queue=400, body_bytes=20_000)) as url:
        yield url


def test_many_replies_to_one_request(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        request: Any = {"model": "tiny", "messages": body()["messages"], "n": 3, "temperature": 2, "max_tokens": 8}
        whole = client.chat.completions.create(**request, seed=4)
        texts = {choice.index: choice.message.content for choice in whole.choices}
        assert sorted(texts) == [0, 1, 2]
        assert len(set(texts.values())) > 1
        streamed = dict.fromkeys(texts, "")
        ends = []
        for chunk in client.chat.completions.create(**request, seed=4, stream=True):
            choice = chunk.choices[0]
            streamed[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
        assert streamed == texts
        assert sorted(ends) == [0, 1, 2]
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 24


def test_logprobs(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        request: Any = {"model": "tiny", "messages": body("ask7;")["messages"], "temperature": 0, "max_tokens": 6}
        reply = client.chat.completions.create(**request, logprobs=True, top_logprobs=3).choices[0]
        assert reply.logprobs is not None
        tokens = reply.logprobs.content or []
        assert "".join(token.token for token in tokens) == reply.message.content == "answer"
        assert all(len(token.top_logprobs) == 3 for token in tokens)
        assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in tokens)
        assert client.chat.completions.create(**request).choices[0].logprobs is None
        chunks = client.chat.completions.create(**request, logprobs=True, stream=True)
        parts = [
            part for chunk in chunks if chunk.choices[0].logprobs for part in chunk.choices[0].logprobs.content or ()
        ]
        assert "".join(part.token for part in parts) == "answer"
        raw = client.completions.create(model="tiny", prompt="ask7;", temperature=0, max_tokens=6, logprobs=2).choices[
            0
        ]
        assert raw.logprobs is not None
        assert "".join(raw.logprobs.tokens or ()) == "answer"
        assert all(len(top) == 2 for top in raw.logprobs.top_logprobs or ())


def test_metrics(url: str) -> None:
    before = metrics(url)
    httpx.post(f"{url}/v1/chat/completions", json=body("ask1;", max_tokens=5))
    after = metrics(url)
    assert after["toolweave_generated_tokens_total"] - before.get("toolweave_generated_tokens_total", 0) == 5
    assert (
        after['toolweave_requests_total{status="200"}'] == before.get('toolweave_requests_total{status="200"}', 0) + 1
    )
    assert after["toolweave_requests_running"] == 0


def metrics(url: str) -> dict[str, float]:
    lines = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if not line.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_two_hundred_clients_get_their_own_replies(url: str) -> None:
    """Half of them go away in the middle; every other one gets exactly its reply, and all places are free again."""
    dice = random.Random(0)

    async def visit(client: httpx.AsyncClient, number: int) -> None:
        request = body(f"ask{number};", stream=True, temperature=0)
        text = ""
        async with client.stream("POST", f"{url}/v1/chat/completions", json=request) as reply:
            assert reply.status_code == 200
            leaves_after = dice.choice([None, 1, 3])
            async for line in reply.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                if leaves_after is not None:
                    leaves_after -= 1
                    if not leaves_after:
                        return
        assert text == f"answer {number} " * 5

    async def crowd() -> None:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(limits=limits, timeout=120) as client:
            await asyncio.gather(*(visit(client, number % 100) for number in range(200)))

    asyncio.run(crowd())
    wait_until(lambda: httpx.get(f"{url}/health").json() == {"status": "ok", "running": 0, "waiting": 0})


def test_a_full_queue_is_told_before_the_prompt_is_read() -> None:
    engine = ScriptedEngine({"hi": "x" * 4000}, max_batch=1, pause=0.01)
    with served(engine, limits=Limits(max_queue=1)) as url, httpx.Client(base_url=url) as client:
        chat = "/v1/chat/completions"
        with client.stream("POST", chat, json=body(stream=True, max_tokens=4000)) as first:
            lines = first.iter_lines()
            next(lines)
            with client.stream("POST", chat, json=body(stream=True, max_tokens=4000)) as second:
                wait_until(lambda: engine.waiting == 1)
                prompts = len(engine.prompts)
                third = client.post(chat, json=body())
                assert third.status_code == 429
                assert int(third.headers["retry-after"]) >= 1
                assert third.json()["error"]["code"] == "queue_full"
                assert len(engine.prompts) == prompts
                assert second.status_code == 200
        wait_until(lambda: engine.running == engine.waiting == 0)
        assert client.post(chat, json=body(n=2, max_tokens=2)).status_code == 200
        assert client.post(chat, json=body(n=3)).status_code == 429


def test_a_request_that_takes_too_long_is_given_up() -> None:
    engine = ScriptedEngine({"hi": "x" * 4000}, pause=0.02)
    with served(engine, limits=Limits(request_seconds=0.3)) as url:
        late = httpx.post(f"{url}/v1/chat/completions", json=body(max_tokens=4000))
        assert late.status_code == 504
        assert "0.3 s" in late.json()["error"]["message"]
        stream = httpx.post(f"{url}/v1/chat/completions", json=body(max_tokens=4000, stream=True)).text
        assert "0.3 s" in stream
        assert stream.endswith("data: [DONE]\n\n")
        assert engine.running == 0


def test_a_failing_request_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine({"good": "fine " * 20}, max_batch=4, pause=0.005)
    poison = TEMPLATE.tokenizer("\x07")["input_ids"][0]
    forward = engine.model.forward

    def fragile(input_ids: Tensor, **options: Any) -> Any:
        if (input_ids == poison).any():
            raise MemoryError("not enough memory")
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(engine.model, "forward", fragile)
    params = SamplingParams()
    try:
        good = [engine.submit(TEMPLATE.tokenizer(f"good {n}")["input_ids"], params) for n in range(2)]
        wait_until(lambda: engine.running == 2)
        bad = engine.submit(TEMPLATE.tokenizer("bad \x07")["input_ids"], params)
        with pytest.raises(ServerError, match="not enough memory"):
            "".join(bad)
        assert ["".join(generation) for generation in good] == ["fine " * 20] * 2
    finally:
        engine.close()


def test_the_key_is_asked_for_and_web_pages_are_not_let_in() -> None:
    limits = Limits(api_key=KEY, body_bytes=5000, allowed_hosts=("127.0.0.1",))
    with served(ScriptedEngine({"hi": "yes"}), limits=limits) as url, httpx.Client(base_url=url) as client:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY.encode()}):
            refused = client.post("/v1/chat/completions", json=body(), headers=given)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        client.headers = httpx.Headers({"authorization": f"Bearer {KEY}".encode()})
        assert client.post("/v1/chat/completions", json=body()).status_code == 200
        assert client.get("/health", headers={"authorization": ""}).status_code == 200
        page = {"origin": "http://evil.example"}
        assert "access-control-allow-origin" not in client.get("/v1/models", headers=page).headers
        assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 400
        large = client.post("/v1/chat/completions", json=body("x" * 6000))
        assert (large.status_code, "larger than 5000 bytes" in large.text) == (413, True)
        chunks = (b'{"messages": "', *[b"x" * 1000] * 6)
        piecemeal = client.post(
            "/v1/chat/completions", content=iter(chunks), headers={"content-type": "application/json"}
        )
        assert piecemeal.status_code == 413
        deep = b'{"messages":' + b"[" * 2400 + b"]" * 2400 + b"}"
        nested = client.post("/v1/chat/completions", content=deep, headers={"content-type": "application/json"})
        assert nested.status_code == 400


def test_pages_can_be_let_in() -> None:
    limits = Limits(allowed_origins=("http://app.example",))
    with served(ScriptedEngine({}), limits=limits) as url:
        allowed = httpx.get(f"{url}/v1/models", headers={"origin": "http://app.example"})
        assert allowed.headers["access-control-allow-origin"] == "http://app.example"
        other = httpx.get(f"{url}/v1/models", headers={"origin": "http://other.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("wrong", [{"max_queue": -1}, {"request_seconds": 0}, {"api_key": " "}])
def test_limits_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ServerError):
        Limits(**wrong)


def test_told_to_stop_the_server_ends_what_it_began(tiny_model_dir: Path) -> None:
    command = [sys.executable, "-m", "toolweave", "deploy", "--ckpt_dir", str(tiny_model_dir), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = re.search(r"http://\S+/v1", process.stdout.readline())
        assert match
        request = body("hi", stream=True, max_tokens=400, temperature=1)
        with httpx.stream("POST", f"{match[0]}/chat/completions", json=request, timeout=120) as reply:
            lines = reply.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""]
        assert process.wait(120) == -signal.SIGTERM
        with pytest.raises(httpx.ConnectError):
            httpx.get(match[0])
