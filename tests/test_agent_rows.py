"""Training rows for an agent of one's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from hypothesis import given, settings
from hypothesis import strategies as st

from stub_server import serve
from toolweave.agents.tools_of import tools_of
from toolweave.cli import main
from toolweave.data.agent_rows import AgentRows, AgentTools, collect
from toolweave.data.agent_values import draw
from toolweave.data.jsonl import read_samples
from toolweave.data.problems import RowError
from toolweave.data.synthesize import Kind
from toolweave.data.validate import check_call, check_sample
from toolweave.dialects import get_dialect
from toolweave.errors import ToolweaveError
from toolweave.types import InvalidToolCall, Json, Lang, Sample, ToolCall, ToolSpec

WEATHER: Json = {
    "name": "getForecast",
    "description": "Get the weather forecast for a specified city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The name of the city."},
            "date": {"type": "string", "description": "The date, in the format 'YYYY-MM-DD'."},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "date"],
    },
}
CONVERT: Json = {
    "name": "convert",
    "description": "将一种货币转换为另一种货币。",
    "parameters": {
        "type": "object",
        "properties": {
            "amount": {"type": "number", "description": "金额"},
            "fromCurrency": {"type": "string", "description": "原货币代码"},
            "toCurrency": {"type": "string", "description": "目标货币代码"},
        },
        "required": ["amount", "fromCurrency", "toCurrency"],
    },
}
TOOLS = tuple(ToolSpec.from_openai(tool) for tool in (WEATHER, CONVERT))


@pytest.mark.parametrize("lang", list(Lang))
@pytest.mark.parametrize("dialect", ["v06", "hermes"])
def test_templates_make_every_kind_of_visit(lang: Lang, dialect: str) -> None:
    rendering = get_dialect(dialect)
    visits = collect(AgentRows(AgentTools(TOOLS, "Be brief.", lang), seed=3).drafts(80), 80, rendering)
    assert set(visits.kinds) == set(Kind)
    assert visits.kinds.total() == 80
    for sample in visits.samples:
        check_sample(sample)
    called = {call.name for sample in visits.samples for call in rendering.parse(sample.completion).calls}
    assert called == {tool.name for tool in TOOLS}
    shown = [{tool.name for tool in sample.tools} for sample in visits.samples]
    assert any(names > called for names in shown), "no distractors"


def test_a_request_says_every_value_of_its_call() -> None:
    rows = AgentRows(AgentTools(TOOLS[:1], lang=Lang.EN), seed=1)
    for episode in rows.drafts(2):
        for turn in episode.turns if episode.meta["kind"] == Kind.ONE_CALL else ():
            for step in turn.steps:
                assert step.call.arguments["city"] in turn.query


def test_a_request_is_about_what_is_asked_not_about_what_could_be() -> None:
    city, days = {"type": "string", "description": "城市名称"}, {"type": "integer", "description": "预报天数"}
    schema = {"type": "object", "properties": {"city": city, "days": days}, "required": ["city", "days"]}
    tool, counted = ToolSpec("forecast", "获取指定城市未来几天的天气预报。", schema), set[bool]()
    for episode in AgentRows(AgentTools((tool,)), seed=1).drafts(10):
        asked = episode.turns[0].query
        match episode.meta["kind"]:
            case Kind.ONE_CALL:
                counted.add(f"未来{episode.turns[0].steps[0].call.arguments['days']}天" in asked)
            case Kind.MISSING:
                assert "指定" not in asked
                assert "城市未来" not in asked
    assert True in counted, "no request says a number of days where the description says a few"


def test_the_same_seed_gives_the_same_rows() -> None:
    def rows(seed: int) -> list[Json]:
        drafts = AgentRows(AgentTools(TOOLS), seed).drafts(10)
        return [sample.to_json() for sample in collect(drafts, 10, get_dialect("v06")).samples]

    assert rows(5) == rows(5) != rows(6)


_LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "email"},
        {"type": "string", "minLength": 3, "maxLength": 5},
        {"type": "integer", "minimum": -3, "maximum": 4},
        {"type": "number", "minimum": 0.5},
        {"type": "number", "maximum": -7},
        {"type": "boolean"},
        {"type": ["null", "integer"]},
        {"enum": ["a", 2, None]},
        {"const": 5},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    ]
)
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda item: {"type": "array", "items": item, "minItems": 2}, inner),
        st.builds(lambda a, b: {"type": "object", "properties": {"a": a, "b": b}, "required": ["b"]}, inner, inner),
    ),
    max_leaves=3,
)


@settings(max_examples=60)
@given(_SCHEMAS, st.text(max_size=12), st.sampled_from(Lang), st.randoms(use_true_random=False))
def test_a_value_fits_its_schema(schema: Json, name: str, lang: Lang, rng: Any) -> None:
    tool = ToolSpec("t", "", {"type": "object", "properties": {name: schema}})
    value = draw(name, schema, lang, rng)
    check_call(ToolCall("t", {name: value.value}), tool)
    assert isinstance(value.text, str)


def _write(folder: Path, content: object) -> Path:
    path = folder / "agent.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


_OPENAPI = {
    "openapi": "3.0.0",
    "info": {"title": "t", "version": "1"},
    "paths": {
        "/forecast": {
            "get": {
                "operationId": "getForecast",
                "summary": WEATHER["description"],
                "parameters": [{"name": "city", "in": "query", "required": True, "schema": {"type": "string"}}],
                "responses": {"200": {"description": "ok"}},
            }
        }
    },
}
_BUILDER = {"name": "Sunny", "language": "en", "tools": {"amap_weather": {"name": "w", "is_active": True, "use": True}}}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ([{"type": "function", "function": WEATHER}], ["getForecast"]),
        ({"name": "Sunny", "tools": [{"name": "x", "inputSchema": WEATHER["parameters"]}]}, ["x"]),
        (_OPENAPI, ["getForecast"]),
        (_BUILDER, ["amap_weather"]),
    ],
)
def test_tools_come_from_any_description(content: object, names: list[str], tmp_path: Path) -> None:
    agent = tools_of(_write(tmp_path, content))
    assert [tool.name for tool in agent.tools] == names
    assert agent.tools[0].parameters["properties"]


def test_a_file_without_tools_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolweaveError, match="describes no tools"):
        tools_of(_write(tmp_path, {"name": "x"}))
    with pytest.raises(ToolweaveError, match="cannot read"):
        tools_of(tmp_path / "missing.json")


def test_rows_for_an_agent_folder_with_an_openapi_plugin(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = tmp_path / "sunny"
    folder.mkdir()
    (folder / "builder_config.json").write_text(json.dumps(_BUILDER | {"model": "qwen-max-1201"}), "utf-8")
    plugin = {"schema": json.dumps(_OPENAPI | {"servers": [{"url": "https://weather.example"}]}), "auth": {}}
    (folder / "openapi_plugin_config.json").write_text(json.dumps(plugin), "utf-8")
    samples = _synthesized(folder, tmp_path / "out.jsonl")
    assert {tool.name for sample in samples for tool in sample.tools} >= {"amap_weather", "getForecast"}
    assert {"amap_weather", "getForecast"} <= _called(samples)
    assert any("You are playing as an AI-Agent, Your name is Sunny" in s.messages[0]["content"] for s in samples)
    assert not recwarn.list  # a retired model writes no rows, and is no concern here


def test_rows_for_an_mcp_server(tmp_path: Path) -> None:
    server = {"command": sys.executable, "args": [str(Path(__file__).parent / "mcp_server.py")]}
    path = _write(tmp_path, {"mcpServers": {"small": server}})
    samples = _synthesized(path, tmp_path / "out.jsonl")
    assert _called(samples) >= {"add", "fail", "slow", "environment"}
    shown = [sample for sample in samples if len(sample.tools) == 4]
    assert "Add two numbers. Parameters: " in shown[0].messages[0]["content"]
    assert "You have the following tools" in shown[0].messages[0]["content"]  # its tools are described in English


def _synthesized(agent: Path, target: Path) -> list[Sample]:
    """Run the command on an agent; return its rows, each of which is sound."""
    with pytest.raises(SystemExit) as exit_:
        main(["data", "synthesize", "--agent", str(agent), str(target), "--count", "60"])
    assert not exit_.value.code
    samples = list(read_samples(target))
    for sample in samples:
        check_sample(sample)
    return samples


def _called(samples: Iterable[Sample]) -> set[str]:
    return {call.name for sample in samples for call in get_dialect("v06").parse(sample.completion).calls}


def _teacher(reply: Callable[[int], str]) -> tuple[FastAPI, list[Json]]:
    app, asked = FastAPI(), list[Json]()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Json:
        asked.append(await request.json())
        message = {"role": "assistant", "content": reply(len(asked))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": "big", "choices": [choice]}

    return app, asked


def _said(number: int, **changed: Any) -> str:
    """Return a good visit, or one with another call."""
    call = {"name": "getForecast", "arguments": {"city": "Oslo", "date": "2024-05-01"}, "observation": "12 degrees"}
    turn = {"query": f"Oslo on May 1, no. {number}?", "calls": [call | changed], "answer": "It will be 12 degrees."}
    return "Sure:\n```json\n" + json.dumps({"turns": [turn]}) + "\n```"


def _synthesize(url: str, agent: Path, target: Path, count: int) -> object:
    """Run the command with the teacher at a URL; return its exit code."""
    teacher = ["--teacher-model", "big", "--teacher-api-base", f"{url}/v1"]
    with pytest.raises(SystemExit) as exit_:
        main(["data", "synthesize", "--agent", str(agent), str(target), "--count", str(count), *teacher])
    return exit_.value.code


def test_a_teacher_writes_rows_and_bad_ones_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {
        0: lambda n: "I would rather not.",
        1: lambda n: _said(n, name="delete_all"),
        2: lambda n: _said(n, arguments={"city": 7, "date": "2024-05-01"}),
        3: lambda n: _said(n, observation="it is 31 degrees"),
        4: lambda n: _said(0),
    }
    app, asked = _teacher(lambda n: bad.get(n % 10, _said)(n))
    monkeypatch.setattr("toolweave.data.teacher.MIX", {Kind.ONE_CALL: 1})
    agent = _write(tmp_path, {"name": "Sunny", "language": "en", "tools": [WEATHER]})
    with serve(app) as url:
        assert not _synthesize(url, agent, tmp_path / "out.jsonl", 12)
    samples = list(read_samples(tmp_path / "out.jsonl"))
    assert len(samples) == 24
    assert all(sample.meta["teacher"] for sample in samples)
    out = capsys.readouterr()
    for reason in ("unreadable", "unknown tool", "wrong type", "unfaithful answer", "said before"):
        assert reason in out.err
    assert asked[0]["model"] == "big"
    assert "getForecast" in asked[0]["messages"][0]["content"]


def test_a_teacher_that_only_writes_nonsense_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app, _ = _teacher(lambda n: "no")
    agent = _write(tmp_path, [WEATHER])
    with serve(app) as url:
        assert _synthesize(url, agent, tmp_path / "out.jsonl", 2) == 2
    assert not (tmp_path / "out.jsonl").exists()
    assert "6 unreadable" in capsys.readouterr().err


def test_malformed_calls_of_a_teacher_are_row_errors() -> None:
    from toolweave.data.teacher import _read

    for reply in ('{"turns": [{}]}', '{"turns": 3}', '{"turns": [{"query": "", "calls": [], "answer": "x"}]}', "[]"):
        with pytest.raises(RowError):
            _read(reply, Kind.ONE_CALL)
    assert not any(isinstance(call, InvalidToolCall) for call in _read(_said(1), Kind.ONE_CALL)[0].steps)
