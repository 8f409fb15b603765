"""RolePlay against the recorded clients: the same requests, in memory and over HTTP, and the same text."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from stub_server import serve
from toolweave.agents import RolePlay
from toolweave.agents.loop import Answered, CallStarted, LimitReached, LimitReason, Observed, TextDelta
from toolweave.errors import ModelError, ServerError, ToolError, ToolweaveError
from toolweave.models.client import ModelClient
from toolweave.models.scripted import ScriptedModel
from toolweave.tools import TOOL_REGISTRY, BaseTool
from toolweave.tools.registry import make_tool
from toolweave.tools.simulate import Recorded
from toolweave.types import InvalidToolCall, ToolCall

EXCHANGES = Path(__file__).parent / "fixtures" / "exchanges"
# What an error says in detail is ours to word; the frame around it is the client's.
DETAILS = re.compile(r"(?<=\.Details: ).*?(?=</result>)")
WEATHER = '工具调用\nAction: amap_weather\nAction Input: {"location": "朝阳区"}\nObservation: x'
OBSERVED = "朝阳区的天气是晴温度是12度。"


class StockPrice(BaseTool):
    name = "stock_price"
    description = "Get the latest price of a stock"
    parameters = (
        {"name": "symbol", "type": "string", "description": "ticker symbol", "required": True},
        {"name": "days", "type": "integer", "description": "number of days", "required": False},
    )

    def call(self, params: str, **kwargs: Any) -> str:
        return f"{self._verify_args(params)['symbol']} closed at 12.5"


class Broken(BaseTool):
    """A tool that raises whatever its configuration says."""

    name = "broken"
    description = "Breaks"

    def call(self, params: str, **kwargs: Any) -> str:
        raise self.cfg["error"]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOOL_REGISTRY, "stock_price", StockPrice)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_API_BASE", "DASHSCOPE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def weather() -> Recorded:
    """The weather tool with what the recorded client's got."""
    places = ("朝阳区", "海淀区")
    results = {json.dumps({"location": place}): f"{place}的天气是晴温度是12度。" for place in places}
    return Recorded(make_tool("amap_weather").spec(), results)


def function_list(names: list[str]) -> list[str | BaseTool]:
    return [weather() if name == "amap_weather" else name for name in names]


def recordings(path: str) -> list[Any]:
    found = []
    for version in ("v06", "v07"):
        recorded = json.loads((EXCHANGES / f"roleplay_{version}.json").read_text("utf-8"))
        found += [
            pytest.param(version, scenario, id=f"{version}-{name}")
            for name, scenario in recorded.items()
            if scenario["requests"][0]["path"] == path
        ]
    return found


CHAT = recordings("/v1/chat/completions")


def without_details(value: Any) -> Any:
    return json.loads(DETAILS.sub("", json.dumps(value, ensure_ascii=False)))


def assert_same_text(text: str, scenario: dict[str, Any]) -> None:
    text, expected = without_details(text), without_details(scenario["yielded"])
    if len(scenario["requests"]) == 10:
        # Where upstream falls silent, ours says why.
        assert text.startswith(expected + "\n抱歉，已达到10次模型调用的上限")
    else:
        assert text == expected


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize(("version", "scenario"), CHAT)
def test_scripted_replies_give_the_recorded_requests_and_text(
    version: str, scenario: dict[str, Any], chunk: int | None
) -> None:
    model = ScriptedModel(scenario["model_replies"], chunk)
    agent = scenario["agent"]
    bot = RolePlay(
        function_list(agent["function_list"]), model, agent["instruction"], dialect=version, max_identical_calls=None
    )
    text = "".join(bot.run(**scenario["run"]))
    assert len(model.requests) == len(scenario["requests"])
    for ours, recorded in zip(model.requests, scenario["requests"], strict=True):
        assert without_details(ours.messages) == without_details(recorded["body"]["messages"])
        assert list(ours.stop) == recorded["body"]["stop"]
    assert_same_text(text, scenario)


class Upstream:
    """A model server that plays replies and keeps the bodies it was sent."""

    def __init__(self, replies: list[str]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self._replies = iter(replies)
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.post("/v1/completions")(self.raw)
        self.app.get("/v1/models")(self.models)

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in ("m", "tuned")]}

    async def chat(self, request: Request) -> Any:
        reply = await self._next(request)
        if reply is None:
            return JSONResponse({"error": {"message": "model not found"}}, 404)
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        if not self.bodies[-1]["stream"]:
            message = {"role": "assistant", "content": reply}
            return head | {"choices": [{"index": 0, "message": message, "finish_reason": "length"}]}
        return StreamingResponse(self._events(head, reply), media_type="text/event-stream")

    async def raw(self, request: Request) -> Any:
        reply = await self._next(request)
        head = {"id": "1", "object": "text_completion", "created": 0, "model": "m"}
        return head | {"choices": [{"index": 0, "text": reply, "finish_reason": "stop"}]}

    async def _next(self, request: Request) -> str | None:
        self.bodies.append(await request.json())
        self.paths.append(request.url.path)
        self.headers.append(dict(request.headers))
        return next(self._replies) if self.bodies[-1]["model"] == "m" else None

    def _events(self, head: dict[str, Any], reply: str) -> Iterator[str]:
        head = head | {"object": "chat.completion.chunk"}
        deltas = [{"role": "assistant"}, *({"content": char} for char in reply), {}]
        for number, delta in enumerate(deltas):
            finish = "stop" if number + 1 == len(deltas) else None
            chunk = head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            yield f"data: {json.dumps(chunk)}\n\n"
        yield f"data: {json.dumps(head | {'choices': [], 'usage': None})}\n\n"
        yield "data: [DONE]\n\n"


@pytest.mark.parametrize(("version", "scenario"), CHAT)
def test_bodies_over_http_are_the_recorded_ones(version: str, scenario: dict[str, Any]) -> None:
    upstream, agent = Upstream(scenario["model_replies"]), scenario["agent"]
    with serve(upstream.app) as url:
        llm = {"model_server": "openai", "model": "m", "api_base": f"{url}/v1", "dialect": version, **scenario["llm"]}
        bot = RolePlay(function_list(agent["function_list"]), llm, agent["instruction"], max_identical_calls=None)
        text = "".join(bot.run(**scenario["run"]))
    assert upstream.paths == [request["path"] for request in scenario["requests"]]
    assert without_details(upstream.bodies) == without_details([request["body"] for request in scenario["requests"]])
    assert upstream.headers[0]["authorization"] == "Bearer EMPTY"
    assert_same_text(text, scenario)


def test_streaming_yields_pieces_and_never_a_stop_word() -> None:
    upstream = Upstream([WEATHER, " 晴。"])
    with serve(upstream.app) as url:
        llm = {"model": "m", "api_base": f"{url}/v1", "support_stream": True}
        pieces = list(RolePlay([weather()], llm).run("朝阳区天气怎样？"))
    assert [body["stream"] for body in upstream.bodies] == [True, True]
    assert len(pieces) > 20
    assert (
        "".join(pieces) == WEATHER.split("Observation")[0] + f"\nObservation: <result>{OBSERVED}</result>\nAnswer: 晴。"
    )


@pytest.mark.parametrize(("version", "scenario"), recordings("/v1/completions"))
def test_raw_completion_sends_the_real_prompt(version: str, scenario: dict[str, Any]) -> None:
    upstream, agent = Upstream(scenario["model_replies"]), scenario["agent"]
    with serve(upstream.app) as url:
        llm = {"model": "m", "api_base": f"{url}/v1", "dialect": version, **scenario["llm"]}
        text = "".join(
            RolePlay(function_list(agent["function_list"]), llm, agent["instruction"]).run("朝阳区天气怎样？")
        )
    first, second = upstream.bodies
    assert upstream.paths == ["/v1/completions"] * 2
    assert set(first) == {"model", "stream", "prompt", "stop", "max_tokens"}
    assert first["max_tokens"] == 2000
    assert first["stop"] == ["Observation:", "Observation:\n"]
    assert first["prompt"].startswith("\n# 工具\n\n## 你拥有如下工具：")
    assert first["prompt"].endswith("\n\n(。你可以使用工具：[amap_weather])朝阳区天气怎样？")
    assert second["prompt"].startswith(first["prompt"])
    assert second["prompt"].endswith(f"\nObservation: <result>{OBSERVED}</result>\nAnswer:")
    assert text.endswith("\nAnswer: 晴。")


def test_generate_cfg_is_added_to_the_body() -> None:
    upstream = Upstream(["好"])
    cfg = {"top_p": 0.8, "top_k": 5, "stop": "END", "use_raw_prompt": True, "debug": False}
    with serve(upstream.app) as url:
        model = ModelClient({"model": "m", "api_base": f"{url}/v1", "generate_cfg": cfg})
        assert "".join(model.complete([{"role": "user", "content": "hi"}], ["Observation:"])) == "好"
    assert upstream.bodies == [
        {
            "model": "m",
            "stream": False,
            "messages": [{"role": "user", "content": "hi"}],
            "stop": ["Observation:", "END"],
            "top_p": 0.8,
            "top_k": 5,
        }
    ]


@pytest.mark.parametrize("limit", [{"max_length": 90}, {"length_constraint": {"knowledge": 10, "input": 90}}])
def test_max_length_leaves_out_the_oldest_turns(limit: dict[str, Any]) -> None:
    upstream = Upstream(["好"])
    talk = [("user", "a" * 20), ("assistant", "b" * 20), ("user", "c" * 5), ("assistant", "d" * 5)]
    history = [{"role": role, "content": content} for role, content in talk]
    with serve(upstream.app) as url:
        bot = RolePlay([], {"model": "m", "api_base": f"{url}/v1", "dialect": "v06", **limit})
        list(bot.run("q" * 5, history=history))
    system, *rest = upstream.bodies[0]["messages"]
    assert system["role"] == "system"
    assert rest == [*history[2:], {"role": "user", "content": "q" * 5}]


def test_events_of_a_visit() -> None:
    bot = RolePlay([weather()], ScriptedModel([WEATHER, " 晴。"]), "")
    call = ToolCall("amap_weather", {"location": "朝阳区"})
    events = list(bot.run_events("朝阳区天气怎样？"))
    frame = f"\nObservation: <result>{OBSERVED}</result>\nAnswer:"
    assert events == [
        TextDelta(WEATHER.removesuffix("Observation: x")),
        CallStarted(call),
        Observed(call, OBSERVED, error=False, visible=frame),
        TextDelta(" 晴。"),
        Answered("晴。", "stop"),
    ]


def test_the_finish_reason_of_the_server_is_told() -> None:
    upstream = Upstream(["没说完"])
    with serve(upstream.app) as url:
        events = list(RolePlay([], {"model": "m", "api_base": f"{url}/v1"}).run_events("hi"))
    assert events[-1] == Answered("没说完", "length")


@pytest.mark.parametrize(
    ("lang", "word"), [("zh", "同样的工具调用已经执行过"), ("en", "The same tool call has been made before")]
)
def test_the_second_identical_call_ends_the_visit(lang: str, word: str) -> None:
    model = ScriptedModel([WEATHER] * 3)
    events = list(RolePlay([weather()], model, "").run_events("朝阳区天气怎样？", lang=lang))
    assert len(model.requests) == 2
    assert sum(isinstance(event, Observed) for event in events) == 1
    last = events[-1]
    assert isinstance(last, LimitReached)
    assert last.reason is LimitReason.IDENTICAL_CALL
    assert last.text.startswith(word)
    assert last.text.endswith(OBSERVED)
    assert last.visible == f"\n{last.text}"


def test_identical_calls_are_told_by_their_arguments_not_by_their_spelling() -> None:
    spelled = 'Action: amap_weather\nAction Input: {"location":"朝阳区"}'
    other = 'Action: amap_weather\nAction Input: {"location": "海淀区"}'
    model = ScriptedModel([WEATHER, other, spelled])
    (*_, last) = RolePlay([weather()], model, "").run_events("朝阳区天气怎样？")
    assert isinstance(last, LimitReached)
    assert OBSERVED in last.text
    allowed = RolePlay([weather()], ScriptedModel([WEATHER, spelled, " 晴。"]), "", max_identical_calls=2)
    assert "".join(allowed.run("朝阳区天气怎样？")).endswith("Answer: 晴。")


@pytest.mark.parametrize(("lang", "word"), [("zh", "抱歉，已达到3次"), ("en", "Sorry, the limit of 3 model calls")])
def test_the_limit_of_calls_ends_the_visit_with_a_sentence(lang: str, word: str) -> None:
    bot = RolePlay([weather()], ScriptedModel([WEATHER] * 3), "", max_calls=3, max_identical_calls=None)
    (*_, last) = bot.run_events("朝阳区天气怎样？", lang=lang)
    assert isinstance(last, LimitReached)
    assert last.reason is LimitReason.MODEL_CALLS
    assert last.text.startswith(word)
    assert OBSERVED in last.text


@pytest.mark.parametrize(
    ("arguments", "call", "details"),
    [
        (
            "no_such\nAction Input: {}",
            ToolCall("no_such", {}),
            "'no_such' is not a tool. Valid names: amap_weather, broken",
        ),
        (
            'amap_weather\nAction Input: {"location":',
            InvalidToolCall("amap_weather", '{"location":', "the arguments are not valid JSON"),
            "the arguments are not valid JSON",
        ),
        ("amap_weather\nAction Input: {}", ToolCall("amap_weather", {}), "'location' is a required property"),
        ("broken\nAction Input: {}", ToolCall("broken", {}), "no more disk"),
    ],
)
def test_failed_calls_come_back_as_observations(arguments: str, call: Any, details: str) -> None:
    model = ScriptedModel([f"Action: {arguments}\nObservation:", " 抱歉。"])
    bot = RolePlay([weather(), Broken({"error": OSError("no more disk")})], model, "")
    (observed,) = (event for event in bot.run_events("?") if isinstance(event, Observed))
    assert observed.call == call
    assert observed.error
    assert observed.observation.startswith(f"Tool api {call.name} failed to call. Args: ")
    assert observed.observation.endswith(f".Details: {details}")
    assert f"<result>{observed.observation}</result>" in model.requests[1].messages[-1]["content"]


def test_an_error_without_words_is_named_by_its_type() -> None:
    bot = RolePlay([Broken({"error": ToolError("")})], ScriptedModel(["Action: broken\nAction Input: {}", "!"]))
    assert ".Details: ToolError<" in "".join(bot.run("?"))


def test_of_several_calls_the_first_runs_and_the_model_goes_on_from_there() -> None:
    first = '看 {"location": "朝阳区"}\nAction: amap_weather\nAction Input: {"location": "朝阳区"}'
    second = '\nAction: amap_weather\nAction Input: {"location": "海淀区"}'
    model = ScriptedModel([first + second, second, " 都晴。"])
    text = "".join(RolePlay([weather()], model, "").run("两地天气？"))
    assert (
        model.requests[1]
        .messages[-1]["content"]
        .endswith(f"{first}\nObservation: <result>{OBSERVED}</result>\nAnswer:")
    )
    assert text.endswith("<result>海淀区的天气是晴温度是12度。</result>\nAnswer: 都晴。")


def test_history_and_files_and_roles() -> None:
    model = ScriptedModel(["好"])
    role = {"name": "小助手", "description": "有用。", "instruction": ["查天气", "画图"]}
    history = [
        {"role": "system", "content": "old"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    list(RolePlay([], model, role).run("看图", history=history, append_files=["/home/me/a.png", "b.txt"]))
    system, *rest = model.requests[0].messages
    assert "你的名字是小助手。有用。\n你具有下列具体功能：查天气；画图\n" in system["content"]
    assert [message["content"] for message in rest] == ["a", "b", '(你正在扮演小助手)[上传文件 "a.png,b.txt"]看图']


def test_keywords_of_run_go_to_the_tools() -> None:
    seen = {}

    class Nosy(Broken):
        name = "nosy"

        def call(self, params: str, **kwargs: Any) -> str:
            seen.update(kwargs)
            return "ok"

    bot = RolePlay([Nosy()], ScriptedModel(["Action: nosy\nAction Input: {}", "ok"]))
    list(bot.run("?", uuid_str="u", append_files=["/tmp/a.png"]))
    cancel = seen.pop("cancel")
    assert not cancel.is_set()
    assert seen == {"uuid_str": "u", "append_files": ["/tmp/a.png"]}


def test_configuration_reaches_the_tool() -> None:
    bot = RolePlay([{"amap_weather": {"token": "t"}}], ScriptedModel([]))
    assert bot.function_map["amap_weather"].cfg == {"token": "t"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"function_list": ["no_such"]}, "unknown tool 'no_such'"),
        ({"function_list": [{"a": {}, "b": {}}]}, "cannot make a tool"),
        ({"llm": None}, "needs a model"),
        ({"llm": {"model_server": "nowhere", "model": "m"}}, "unknown model_server 'nowhere'"),
        ({"llm": {"model_server": "openai"}}, "names no model"),
        ({"llm": {"model": "m", "dialect": "v99"}}, "unknown dialect 'v99'"),
        ({"instruction": {"description": "no name"}}, "no name"),
        ({"max_calls": 0}, "at least 1"),
    ],
)
def test_bad_set_ups_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolweaveError, match=message):
        RolePlay(**({"llm": ScriptedModel([])} | arguments))


def test_unused_options_are_named_in_a_warning() -> None:
    with pytest.warns(UserWarning, match="story_state"):
        RolePlay([], ScriptedModel([]), story_state="x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RolePlay([], {"model": "m", "is_function_call": False, "is_chat": True, "support_stream": False})


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ToolweaveError, match="unknown language 'fr'"):
        next(RolePlay([], ScriptedModel(["?"])).run("?", lang="fr"))


def test_a_script_that_ends_says_so() -> None:
    with pytest.raises(ModelError, match="0 replies"):
        list(RolePlay([], ScriptedModel([])).run("?"))


def test_any_iterator_is_a_model() -> None:
    class Plain:
        def complete(self, messages: Any, stop: Any) -> Iterator[str]:
            return iter(["Obs", "cure. Observ", "ation: leak", "leak"])

    assert "".join(RolePlay([], Plain()).run("?")) == "Obscure. "


def ask(llm: dict[str, Any]) -> str:
    return "".join(RolePlay([], {"model": "m", **llm}).run("hi"))


def test_an_unknown_model_is_answered_with_what_there_is() -> None:
    with serve(Upstream([]).app) as url, pytest.raises(ServerError, match="it offers m, tuned"):
        ask({"model": "other", "api_base": f"{url}/v1"})


def test_a_wrong_base_url_is_told() -> None:
    with serve(Upstream([]).app) as url, pytest.raises(ServerError, match="ends in /v1"):
        ask({"api_base": url})


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(ServerError, match=r"no model server reached at http://127\.0\.0\.1:9/v1"):
        ask({"api_base": "http://127.0.0.1:9/v1"})


def test_a_missing_key_is_named_when_the_model_is_asked() -> None:
    bot = RolePlay([], {"model_server": "dashscope", "model": "qwen-max"})
    with pytest.raises(ServerError, match="DASHSCOPE_API_KEY"):
        list(bot.run("hi"))


def failing(status: int, body: Any) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat() -> Any:
        return JSONResponse(body, status, headers={"x-should-retry": "false"})

    return app


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {"error": {"message": "bad key sk-secret"}}, r"HTTP 401: bad key \*\*\*\n  hint: check api_key"),
        (400, {"error": {"message": "too long"}}, "HTTP 400: too long"),
        (429, {"error": {"message": "slow down"}}, "HTTP 429: slow down\n  hint: too many requests"),
        (500, {"error": {"message": "out of memory"}}, "HTTP 500: out of memory\n  hint: look at the server's log"),
        (200, {"hello": "world"}, "does not answer like an OpenAI API"),
        (200, "hello", "does not answer like an OpenAI API"),
    ],
)
def test_refusals_are_told_without_the_key(status: int, body: Any, message: str) -> None:
    with serve(failing(status, body)) as url, pytest.raises(ServerError, match=message) as caught:
        ask({"api_base": f"{url}/v1", "api_key": "sk-secret"})
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("end", ['data: {"error": {"message": "engine died"}}\n\n', None])
def test_a_stream_that_breaks_off_is_an_error(end: str | None) -> None:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat() -> Any:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        chunk["choices"] = [{"index": 0, "delta": {"content": "晴"}, "finish_reason": None}]

        def events() -> Iterator[str]:
            yield f"data: {json.dumps(chunk)}\n\n"
            if end is None:
                raise SystemError
            yield end

        return StreamingResponse(events(), media_type="text/event-stream")

    with serve(app) as url, pytest.raises(ServerError):
        ask({"api_base": f"{url}/v1", "support_stream": True})
