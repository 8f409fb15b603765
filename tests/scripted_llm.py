"""A model server that plays a weather painter and a builder, piece by piece, in AgentFabric's v06 dialect."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse

from toolweave.dialects.agentfabric import contains_chinese

_PLACE = re.compile(r"朝阳区|杭州|上海|Boston|Paris")
_PICTURE = re.compile(r"!\[IMAGEGEN\]\([^)]*\)")
_RESULT = re.compile(r"<result>(.*?)</result>", re.DOTALL)


def scripted_llm(pause: float = 0.0) -> FastAPI:
    """Return the app; `pause` is how many seconds it waits before each piece, `slow` in a question makes it slow."""
    app = FastAPI()
    app.state.requests = []

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "scripted", "object": "model", "created": 0, "owned_by": "tests"}]}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: dict[str, Any]) -> Response:
        app.state.requests.append(body)
        reply, wait = reply_to(body["messages"]), 0.05 if "慢" in body["messages"][-1]["content"] else pause
        if not body.get("stream"):
            message = {"role": "assistant", "content": reply}
            return JSONResponse(_frame("chat.completion", {"message": message, "finish_reason": "stop"}))
        return StreamingResponse(_pieces(reply, wait), media_type="text/event-stream")

    return app


def reply_to(messages: list[dict[str, Any]]) -> str:
    """Return what the model says, up to where a server stops it."""
    asked = messages[-1]["content"]
    if "RichConfig" in messages[0]["content"]:
        return _build(asked)
    # In front of the question stands what role is played and which tools there are.
    question = re.sub(r"^\([^)]*\)", "", re.split("工具调用|Tool Invocation", asked)[0])
    chinese = contains_chinese(question)
    results = _RESULT.findall(asked)
    if number := re.search(r"#\d+", question):
        return f"收到 {number[0]}。"
    if "慢" in question:
        return "从前有一座山，山里有一座庙。" * 40
    place = _PLACE.search(question)
    calls = []
    if "代码" in question:
        calls.append(("code_interpreter", {"code": "print(6 * 7)"}))
    if place and ("天气" in question or "weather" in question):
        calls.append(("amap_weather", {"location": place[0]}))
    if "画" in question or "draw" in question.lower():
        calls.append(("image_gen", {"text": question[-40:], "resolution": "1024*1024"}))
    if len(results) < len(calls):
        name, arguments = calls[len(results)]
        lead, word = ("好的，我来查。", "工具调用") if chinese else ("Let me look.", "Tool Invocation")
        shown = json.dumps(arguments, ensure_ascii=False)
        return f"{'' if results else lead}\n{word}\nAction: {name}\nAction Input: {shown}\n"
    pictures = "".join(_PICTURE.findall(asked)[-1:])
    weather = next((text.replace("[simulated] ", "") for text in results if "IMAGEGEN" not in text), "")
    if "代码" in question and results:
        return f"结果：{results[0].strip()}"
    if not results:
        return " 我可以查天气，也可以画画。" if chinese else " I can look up the weather, and draw."
    return f" {weather or ('这是为您画的：' if chinese else 'Here you are:')}{pictures}"


def _build(asked: str) -> str:
    config = {
        "name": "诗人", "description": "写诗的助手", "instructions": ["按主题写诗", "解释诗意"],
        "prompt_recommend": ["写一首春天的诗", "写一首关于海的诗"], "logo_prompt": "a poet with a brush",
    }  # fmt: skip
    rich = json.dumps(config, ensure_ascii=False)
    return f"Answer: 好的，我把它叫做“诗人”，你看怎么样？\nConfig: {rich}\nRichConfig: {rich}"


async def _pieces(reply: str, pause: float) -> AsyncIterator[str]:
    for piece in re.findall(r"\w{1,3}|\W", reply):
        if pause:
            await asyncio.sleep(pause)
        yield _event(_frame("chat.completion.chunk", {"delta": {"content": piece}, "finish_reason": None}))
    yield _event(_frame("chat.completion.chunk", {"delta": {}, "finish_reason": "stop"}))
    yield "data: [DONE]\n\n"


def _frame(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "x", "object": kind, "created": 0, "model": "scripted", "choices": [{"index": 0, **choice}]}


def _event(frame: dict[str, Any]) -> str:
    return f"data: {json.dumps(frame, ensure_ascii=False)}\n\n"
