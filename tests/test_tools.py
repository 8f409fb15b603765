"""Tools: schemas as recorded, the registry, and the built-in tools against servers that speak their protocols."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from stub_server import serve
from toolweave.dialects import Prompt, get_dialect
from toolweave.errors import ToolError, ToolweaveError
from toolweave.tools import TOOL_REGISTRY, BaseTool, register_tool
from toolweave.tools.amap_weather import AmapWeather
from toolweave.tools.image_gen import ImageGen
from toolweave.tools.registry import make_tool
from toolweave.tools.simulate import Recorded, Simulated
from toolweave.types import ToolSpec

EXCHANGES = Path(__file__).parent / "fixtures" / "exchanges"
KEY = "key-0123456789"
DISTRICTS = {
    "朝阳区": [
        {"name": "朝阳区街道", "adcode": "1", "level": "street"},
        {"name": "朝阳区", "adcode": "110105", "level": "district"},
        {"name": "朝阳区", "adcode": "220104", "level": "district"},
    ],
    "海淀": [{"name": "海淀区", "adcode": "110108", "level": "district"}],
    "无风": [{"name": "无风", "adcode": "999999", "level": "city"}],
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AMAP_TOKEN", "AMAP_BASE_URL", "DASHSCOPE_API_KEY", "DASHSCOPE_HTTP_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOOLWEAVE_ALLOW_HOSTS", "127.0.0.1")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[BaseTool]]:
    """A copy of the registry, in use for the test."""
    copy = dict(TOOL_REGISTRY)
    monkeypatch.setattr("toolweave.tools.registry.TOOL_REGISTRY", copy)
    return copy


def call(tool: BaseTool, **arguments: Any) -> str:
    return tool.call(json.dumps(arguments, ensure_ascii=False))


def test_built_in_tools_are_written_as_recorded() -> None:
    recorded = json.loads((EXCHANGES / "roleplay_v06.json").read_text("utf-8"))["zh_no_call"]
    tools = tuple(make_tool(name).spec() for name in ("amap_weather", "image_gen"))
    prompt = Prompt("你好", tools, recorded["agent"]["instruction"])
    assert get_dialect("v06").start(prompt) == recorded["requests"][0]["body"]["messages"]


def test_the_function_is_the_openai_schema() -> None:
    function = AmapWeather().function
    assert list(function) == ["name", "description", "parameters"]
    assert AmapWeather().spec().openai() == {"type": "function", "function": function}


# The registry


class Echo(BaseTool):
    description = "Says it again"
    parameters = (
        {"name": "text", "type": "string", "description": "what", "required": True, "enum": ["a", "b"]},
        {"name": "times", "type": "integer", "description": "how often"},
    )

    def call(self, params: str, **kwargs: Any) -> str:
        arguments = self._verify_args(params)
        return arguments["text"] * arguments.get("times", 1)


def test_a_class_is_registered_under_its_name(registry: dict[str, type[BaseTool]]) -> None:
    assert register_tool("echo")(Echo) is Echo
    tool = make_tool({"echo": {"loud": True}})
    assert isinstance(tool, Echo)
    assert (tool.name, tool.cfg) == ("echo", {"loud": True})
    assert json.dumps(tool.spec().parameters) == (
        '{"type": "object", "properties": {"text": {"type": "string", "description": "what", "enum": ["a", "b"]}, '
        '"times": {"type": "integer", "description": "how often"}}, "required": ["text"]}'
    )
    assert make_tool(tool) is tool


def test_registering_again_replaces_with_a_warning(registry: dict[str, type[BaseTool]]) -> None:
    register_tool("echo")(Echo)

    class Other(Echo):
        pass

    with pytest.warns(UserWarning, match="'echo' is registered again"):
        register_tool("echo")(Other)
    assert registry["echo"] is Other


def test_what_is_no_tool_is_refused(registry: dict[str, type[BaseTool]]) -> None:
    with pytest.raises(ToolweaveError, match="is not a tool"):
        register_tool("number")(int)
    with pytest.raises(
        ToolweaveError, match=r"unknown tool 'number'\n  hint: registered are: amap_weather, code_interpreter"
    ):
        make_tool("number")


def test_a_typed_function_is_a_tool(registry: dict[str, type[BaseTool]]) -> None:
    @register_tool("convert")
    def convert(amount: float, to: Literal["EUR", "USD"], digits: int | None = None, tags: list[str] = []) -> str:  # noqa: B006
        """Convert an amount
        of money.

        More about it.

        Args:
            amount: how much
            to: the currency

        Returns:
            digits: not a parameter
        """
        return f"{amount:.{digits or 0}f} {to}"

    assert convert(1.0, "EUR") == "1 EUR"
    tool = make_tool("convert")
    assert tool.spec() == ToolSpec(
        "convert",
        "Convert an amount of money.",
        {
            "type": "object",
            "properties": {
                "amount": {"type": "number", "description": "how much"},
                "to": {"type": "string", "description": "the currency", "enum": ["EUR", "USD"]},
                "digits": {"type": "integer", "description": ""},
                "tags": {"type": "array", "description": ""},
            },
            "required": ["amount", "to"],
        },
    )
    assert call(tool, amount=2, to="USD", digits=1) == "2.0 USD"
    with pytest.raises(ToolError, match="to: 'GBP' is not one of"):
        call(tool, amount=2, to="GBP")


def test_a_type_that_json_cannot_say_is_refused() -> None:
    def paint(canvas: Echo) -> str:
        raise NotImplementedError

    with pytest.raises(ToolweaveError, match="paint: canvas: JSON has no type"):
        register_tool("paint")(paint)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ('{"text": ', "not valid JSON"),
        ("[1]", "not a JSON object"),
        ("", "'text' is a required property"),
        ('{"text": "c"}', "text: 'c' is not one of"),
        ('{"text": "a", "times": "3"}', "times: '3' is not of type 'integer'"),
    ],
)
def test_arguments_are_checked(params: str, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        Echo().call(params)
    assert Echo().call('{"text": "a", "times": 3}') == "aaa"


# Simulated tools

WEATHER = AmapWeather().spec()


def test_recorded_answers_what_was_recorded() -> None:
    spec = ToolSpec("t", "d", {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]})
    tool = Recorded(spec, {'{"b":1,"a":"海"}': "seen"})
    assert tool.spec() is spec
    assert call(tool, a="海", b=1) == "seen"
    with pytest.raises(ToolError, match="nothing is recorded"):
        call(tool, a="海", b=2)
    with pytest.raises(ToolError, match="'a' is a required property"):
        call(tool, b=2)


def test_simulated_labels_what_it_makes_up() -> None:
    tool = Simulated(WEATHER)
    assert call(tool, location="海淀区") == '[simulated] amap_weather({"location": "海淀区"})'
    assert tool.parameters == [dict(AmapWeather.parameters[0])]
    with pytest.raises(ToolError, match="required"):
        call(tool)


# The weather


class AMap:
    """The two AMap services that the tool asks."""

    def __init__(self) -> None:
        self.queries: list[tuple[str, dict[str, str]]] = []
        self.app = FastAPI()
        self.app.get("/v3/config/district")(self.district)
        self.app.get("/v3/weather/weatherInfo")(self.weather)

    async def district(self, request: Request) -> Any:
        query = self._query("district", request)
        if query["key"] != KEY:
            return {"status": "0", "info": f"INVALID_USER_KEY {query['key']}", "infocode": "10001"}
        if query["keywords"] == "慢":
            await asyncio.sleep(1)
        if query["keywords"] == "坏":
            return PlainTextResponse("<html>")
        if query["keywords"] == "崩":
            return JSONResponse({"message": f"down for {KEY}"}, 503)
        return {"status": "1", "info": "OK", "districts": DISTRICTS.get(query["keywords"], [])}

    async def weather(self, request: Request) -> Any:
        query = self._query("weather", request)
        if query["city"] == "999999":
            return {"status": "1", "info": "OK", "lives": []}
        return {"status": "1", "info": "OK", "lives": [{"weather": "晴", "temperature": "12", "winddirection": "北"}]}

    def _query(self, name: str, request: Request) -> dict[str, str]:
        self.queries.append((name, dict(request.query_params)))
        return dict(request.query_params)


@pytest.fixture
def amap() -> Iterator[tuple[AMap, dict[str, Any]]]:
    """The service, and the tool's configuration for it."""
    service = AMap()
    with serve(service.app) as url:
        yield service, {"token": KEY, "base_url": url, "timeout": 30}


def test_weather_is_a_sentence_and_the_adcode_is_asked_once(amap: tuple[AMap, dict[str, Any]]) -> None:
    service, cfg = amap
    tool = AmapWeather(cfg)
    assert call(tool, location="朝阳区") == "朝阳区的天气是晴温度是12度。"
    assert call(tool, location=" 朝阳区") == "朝阳区的天气是晴温度是12度。"
    assert call(tool, location="海淀") == "海淀的天气是晴温度是12度。"
    names = [name for name, query in service.queries]
    assert names == ["district", "weather", "weather", "district", "weather"]
    assert service.queries[1][1] == {"city": "110105", "key": KEY}
    assert service.queries[4][1]["city"] == "110108"


@pytest.mark.parametrize("location", ["北京市海淀区", "海淀区", "海淀县"])
def test_a_place_is_found_by_its_last_part_and_without_its_suffix(
    amap: tuple[AMap, dict[str, Any]], location: str
) -> None:
    service, cfg = amap
    assert call(AmapWeather(cfg), location=location) == f"{location}的天气是晴温度是12度。"
    assert service.queries[-2][1]["keywords"] == "海淀"
    assert service.queries[-1][1]["city"] == "110108"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("不存在", "AMap knows no city or district called '不存在'"),
        ("无风", "AMap has no weather of 无风"),
        ("坏", "AMap answered: something that is not a JSON object"),
        ("崩", r"AMap answered: HTTP 503, down for \*\*\*"),
    ],
)
def test_what_amap_cannot_tell(amap: tuple[AMap, dict[str, Any]], location: str, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        call(AmapWeather(amap[1]), location=location)


def test_a_refused_key_is_told_but_never_shown(amap: tuple[AMap, dict[str, Any]]) -> None:
    with pytest.raises(ToolError, match=r"^AMap answered: INVALID_USER_KEY \*\*\*$") as caught:
        call(AmapWeather(amap[1] | {"token": "wrong-secret"}), location="朝阳区")
    assert caught.value.__cause__ is None


def test_a_slow_amap_is_given_up(amap: tuple[AMap, dict[str, Any]]) -> None:
    with pytest.raises(ToolError, match=r"^AMap did not answer within 0\.2 s$"):
        call(AmapWeather(amap[1] | {"timeout": 0.2}), location="慢")


def test_the_environment_configures_the_weather(
    amap: tuple[AMap, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMAP_BASE_URL", amap[1]["base_url"])
    with pytest.raises(ToolError, match="AMAP_TOKEN is not set"):
        call(AmapWeather(), location="朝阳区")
    monkeypatch.setenv("AMAP_TOKEN", KEY)
    assert call(AmapWeather(), location="朝阳区") == "朝阳区的天气是晴温度是12度。"


def test_a_service_that_is_not_there_is_told_without_its_url() -> None:
    with pytest.raises(ToolError, match=r"^cannot reach AMap: ConnectError$"):
        call(AmapWeather({"token": KEY, "base_url": "http://127.0.0.1:9"}), location="朝阳区")


# Pictures


class DashScope:
    """The asynchronous task protocol; `states` are the outputs that successive looks find."""

    def __init__(self, states: list[dict[str, Any]]) -> None:
        self.states = states
        self.body: dict[str, Any] = {}
        self.headers: list[dict[str, str]] = []
        self.app = FastAPI()
        self.app.post("/services/aigc/text2image/image-synthesis")(self.submit)
        self.app.get("/tasks/{task_id}")(self.look)

    async def submit(self, request: Request) -> Any:
        self.headers.append(dict(request.headers))
        self.body = await request.json()
        if self.headers[-1]["authorization"] != f"Bearer {KEY}":
            return JSONResponse({"code": "InvalidApiKey", "message": "Invalid API-key provided."}, 401)
        return {"request_id": "r", "output": {"task_id": "task-1", "task_status": "PENDING"}}

    async def look(self, task_id: str, request: Request) -> Any:
        self.headers.append(dict(request.headers))
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {"request_id": "r", "output": {"task_id": task_id} | state}


DONE = {"task_status": "SUCCEEDED", "results": [{"url": "https://img.example.com/1.png"}]}
PICTURE = {"text": "雪地里的猫", "resolution": "1024*1024"}


def paint(service: DashScope, arguments: dict[str, Any] = PICTURE, **cfg: Any) -> str:
    with serve(service.app) as url:
        return call(ImageGen({"api_key": KEY, "base_url": url, "interval": 0.01} | cfg), **arguments)


def test_a_picture_is_waited_for() -> None:
    service = DashScope([{"task_status": "PENDING"}, {"task_status": "RUNNING"}, DONE])
    assert paint(service) == "![IMAGEGEN](https://img.example.com/1.png)"
    assert service.body == {
        "model": "wanx-v1",
        "input": {"prompt": "雪地里的猫"},
        "parameters": {"size": "1024*1024", "n": 1},
    }
    assert len(service.headers) == 4
    assert service.headers[0]["x-dashscope-async"] == "enable"
    assert {headers["authorization"] for headers in service.headers} == {f"Bearer {KEY}"}


def test_model_and_lora_are_passed_on() -> None:
    service = DashScope([DONE])
    paint(service, PICTURE | {"lora_index": "wanxlite1.4.5_lora"}, model="wanx-lite")
    assert service.body["model"] == "wanx-lite"
    assert service.body["parameters"]["lora_index"] == "wanxlite1.4.5_lora"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"task_status": "FAILED", "message": "content refused"}, "DashScope answered: FAILED, content refused"),
        ({"task_status": "UNKNOWN"}, "DashScope answered: UNKNOWN, no reason"),
        ({"task_status": "SUCCEEDED", "results": [{"message": "too dark"}]}, "DashScope answered: too dark"),
        ({"task_status": "SUCCEEDED"}, "DashScope answered: no picture"),
    ],
)
def test_a_task_that_fails_is_told(state: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolError, match=re.escape(message)):
        paint(DashScope([state]))


def test_a_picture_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(ToolError, match=r"not ready within 0\.1 s"):
        paint(DashScope([{"task_status": "RUNNING"}]), timeout=0.1)


def test_a_refused_dashscope_key_is_told() -> None:
    with pytest.raises(ToolError, match=r"^DashScope answered: HTTP 401, Invalid API-key provided\.$"):
        paint(DashScope([DONE]), api_key="wrong")


def test_a_missing_key_and_a_wrong_size_are_told() -> None:
    with pytest.raises(ToolError, match="DASHSCOPE_API_KEY is not set"):
        call(ImageGen(), **PICTURE)
    with pytest.raises(ToolError, match=r"resolution must be one of 1024\*1024, 720\*1280, 1280\*720"):
        call(ImageGen(), **(PICTURE | {"resolution": "8*8"}))
