"""Every public format comes in whole: the same conversation, written in each, is the same episode."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from hub_server import HubServer, ModelScopeServer
from stub_server import serve
from toolweave.data import validate
from toolweave.data.check import check
from toolweave.data.check_report import write_html
from toolweave.data.formats import FORMATS, detect
from toolweave.data.hub import Hub, HubId
from toolweave.data.load import load_samples, render
from toolweave.data.mix import mix_in
from toolweave.data.mix_recipe import MixRecipe, write_mix
from toolweave.data.problems import Failure, RowError
from toolweave.data.self_cognition import Persona, self_cognition_samples
from toolweave.data.split import GroupBy, group_of, split
from toolweave.data.strategy import Strategy
from toolweave.data.validate import check_episode
from toolweave.dialects import get_dialect
from toolweave.errors import DataError
from toolweave.types import Episode, Json, Lang, Message, Sample, Step, ToolCall, ToolSpec, Turn

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "城市"},
        "days": {"type": "integer", "enum": [1, 3]},
        "where": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
    },
    "required": ["city"],
}
WEATHER = ToolSpec("weather", "Tells the weather", PARAMETERS)
CALL = ToolCall("weather", {"city": 'Pa"ris\n🌦️', "days": 3})
EPISODE = Episode(
    (WEATHER,), (Turn("Weather in Paris?", (Step(CALL, "sunny"),), "It is sunny."), Turn("Thanks", (), "Welcome.")),
    lang=Lang.EN,
)  # fmt: skip
SCHEMA = [WEATHER.openai()]
ARGUMENTS = json.dumps(CALL.arguments, ensure_ascii=False)
HERMES_CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'


def _pairs(role: str, content: str, *said: tuple[str, Any]) -> list[Json]:
    return [{role: who, content: text} for who, text in said]


END = (("user", "Thanks"), ("assistant", "Welcome."))
OPENAI = {
    "messages": [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
        *_pairs("role", "content", *END),
    ],
    "tools": SCHEMA,
}  # fmt: skip
SHAREGPT = {
    "conversations": _pairs(
        "from", "value", ("human", "Weather in Paris?"),
        ("function_call", json.dumps({"name": "weather", "arguments": CALL.arguments})), ("observation", "sunny"),
        ("gpt", "It is sunny."), ("human", "Thanks"), ("gpt", "Welcome."),
    ),
    "tools": json.dumps([SCHEMA[0]["function"]]),
}  # fmt: skip
HERMES = {
    "conversations": _pairs(
        "from", "value", ("system", f"# Tools\n<tools>\n{json.dumps(SCHEMA[0])}\n</tools>"),
        ("human", "Weather in Paris?"), ("gpt", HERMES_CALL),
        ("tool", "<tool_response>\nsunny\n</tool_response>"), ("gpt", "It is sunny."), ("human", "Thanks"),
        ("gpt", "Welcome."),
    )
}  # fmt: skip


def _node(kind: str, text: str, *children: Json, **extra: Any) -> Json:
    return {"node_type": kind, "description": text, "children": list(children), **extra}


FINISH = _node("Action", "Finish", _node("Action Input", '{"return_type":"give_answer","final_answer":"It is sunny."}'))
GIVE_UP = _node("Action", "Finish", _node("Action Input", '{"return_type": "give_up_and_restart"}'))
TREE = {
    "tree": {"tree": _node("Action Input", "", GIVE_UP, _node(
        "Thought", "I look it up",
        _node("Action", "weather", _node("Action Input", ARGUMENTS, FINISH, observation="sunny")),
    ))},
    "answer_generation": {
        "query": "Weather in Paris?", "function": [SCHEMA[0]["function"], {"name": "Finish", "parameters": {}}],
    },
}  # fmt: skip
BFCL = {
    "id": "simple_0", "question": [[{"role": "user", "content": "Weather in Paris?"}]],
    "function": [{"name": "weather", "description": "Tells the weather", "parameters": {**PARAMETERS, "type": "dict"}}],
    "ground_truth": [{"weather": {"city": [CALL.arguments["city"]], "days": [3], "where": ["", {"lat": [1.5]}]}}],
}  # fmt: skip


def read(format_: str, row: Json) -> Episode:
    assert detect([row]) == format_
    return FORMATS[format_].read(row)


@pytest.mark.parametrize(("name", "row"), [("openai", OPENAI), ("sharegpt", SHAREGPT), ("hermes", HERMES)])
def test_the_same_conversation_is_the_same_episode(name: str, row: Json) -> None:
    assert read(name, row) == EPISODE


def test_a_toolbench_tree_is_the_path_to_its_answer() -> None:
    assert read("toolbench", TREE) == replace(EPISODE, turns=EPISODE.turns[:1])


def test_a_bfcl_question_teaches_its_call_and_no_answer() -> None:
    episode = read("bfcl", BFCL)
    (sample,) = render(get_dialect("v06"), episode)
    assert get_dialect("v06").parse(sample.completion).calls == (CALL,)


def test_several_bfcl_calls_teach_the_first() -> None:
    row = {**BFCL, "ground_truth": BFCL["ground_truth"] * 2}
    assert len(render(get_dialect("v06"), read("bfcl", row))) == 1


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("swift", {"query": "b", "response": "B", "history": [["a", "A"]], "system": "Be kind."}),
        ("swift", {"query": "b", "response": "B", "history": '[["a", "A"]]', "system": "Be kind."}),
        ("alpaca", {"instruction": "b", "input": "", "output": "B", "history": [["a", "A"]], "system": "Be kind."}),
    ],
)
def test_questions_and_answers(name: str, row: Json) -> None:
    assert read(name, row) == Episode((), (Turn("a", (), "A"), Turn("b", (), "B")), "Be kind.", Lang.EN)


def test_api_bank_folder(tmp_path: Path) -> None:
    result = {"output": {"t": 1}, "exception": None}
    turns = [
        {"role": "User", "text": "go"}, {"role": "AI", "text": "Sure."},
        {"role": "API", "api_name": "Get", "param_dict": {"n": 1}, "result": result}, {"role": "AI", "text": "Done."},
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(turn) for turn in turns))  # some files lack line ends
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(turn) for turn in turns[:1] + turns[2:]))
    loaded = load_samples(tmp_path)
    report = loaded.report
    assert (report.format, report.episodes, report.calls, report.prefaces, len(loaded.samples)) == (
        "api_bank",
        2,
        2,
        1,
        4,
    )
    assert loaded.samples[0].tools[0].parameters["required"] == ["n"]


def _conversation(sample: Sample) -> Json:
    said = [{"from": m["role"], "value": m["content"]} for m in sample.messages]
    return {"conversations": [*said, {"from": "assistant", "value": sample.completion}]}


_text = st.text("ab好🌦\n\"'{}:", min_size=1, max_size=8).map(str.strip).filter(bool)
_schema = st.sampled_from(
    [{"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "string"}},
     {"type": "object", "properties": {"x": {"type": "number"}}}, {"type": "string", "enum": ["a", "好"]}]
)  # fmt: skip
_EXAMPLES = {"string": "好\"'\n🌦", "integer": 3, "array": ["a", "\n"], "object": {"x": 1.5}}


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    """Episodes of up to 40 tools with up to 12 parameters each."""
    tools = []
    for number in range(draw(st.integers(1, 40))):
        properties = {
            f"p{index}": {**draw(_schema), "description": draw(_text)} for index in range(draw(st.integers(0, 12)))
        }
        tools.append(ToolSpec(f"t{number}", draw(_text), {"type": "object", "properties": properties, "required": []}))

    def step() -> Step:
        called = draw(st.sampled_from(tools))
        arguments = {
            name: schema["enum"][-1] if "enum" in schema else _EXAMPLES[schema["type"]]
            for name, schema in called.parameters["properties"].items()
        }
        return Step(ToolCall(called.name, arguments), draw(_text))

    turns = [
        Turn(f"q{number} {draw(_text)}", tuple(step() for _ in range(draw(st.integers(0, 2)))), f"答 {draw(_text)}")
        for number in range(draw(st.integers(1, 3)))
    ]
    return Episode(tuple(tools), tuple(turns), draw(_text))


@settings(max_examples=25, deadline=None)
@given(episodes(), st.sampled_from(["v06", "v07"]))
def test_agentfabric_rows_become_the_episode_and_the_same_rows_again(
    tmp_path_factory: pytest.TempPathFactory, episode: Episode, variant: str
) -> None:
    samples = render(get_dialect(variant), episode)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(_conversation(sample)) + "\n" for sample in samples), "utf-8")
    loaded = load_samples(path, dialect=variant)
    assert (loaded.report.format, loaded.report.dropped) == ("ms_agent_for_agentfabric", ())
    assert loaded.report.rows == len(samples)
    assert [(s.messages, s.completion, s.tools) for s in loaded.samples] == [
        (s.messages, s.completion, s.tools) for s in samples
    ]


# --- files and hubs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_every_file_type_gives_the_same_samples(suffix: str, tmp_path: Path) -> None:
    other = {**SHAREGPT, "tools": json.dumps([ToolSpec("clock", "", {"type": "object", "properties": {}}).openai()])}
    other = {**other, "conversations": SHAREGPT["conversations"][-2:]}
    rows, path = [SHAREGPT, other], tmp_path / f"rows.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["conversations", "tools"])
            writer.writeheader()
            writer.writerows({**row, "conversations": json.dumps(row["conversations"])} for row in rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    samples = load_samples(path).samples
    assert samples[0].tools == (WEATHER,)
    assert [sample.completion for sample in samples[1:]] == ["It is sunny.", "Welcome.", "Welcome."]


def test_samples_in_parquet_get_no_foreign_nulls(tmp_path: Path) -> None:
    clock = ToolSpec("clock", "", {"type": "object", "properties": {"zone": {"type": "string"}}, "required": []})
    samples = [
        Sample((Message(role="user", content="hi"),), "Hello", tools=(tool,), meta={"id": 1})
        for tool in (WEATHER, clock)
    ]
    parquet.write_table(pa.Table.from_pylist([sample.to_json() for sample in samples]), tmp_path / "s.parquet")
    assert [sample.tools for sample in load_samples(tmp_path).samples] == [sample.tools for sample in samples]


def test_hub_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HubId.parse("HF::a/b") == HubId(Hub.HUGGING_FACE, "a/b")
    assert HubId.parse("a/b") == HubId(Hub.MODELSCOPE, "a/b")
    monkeypatch.setenv("USE_HF", "1")
    assert HubId.parse("a/b") == HubId(Hub.HUGGING_FACE, "a/b")
    assert HubId.parse("data/rows.jsonl") is None
    assert HubId.parse("/a/b") is None


@pytest.mark.parametrize("hub", ["HF", "MS"])
def test_a_cached_hub_data_set_needs_no_network(hub: str, tmp_path: Path) -> None:
    if hub == "HF":
        repo = tmp_path / "hub" / "datasets--me--mine"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text("0" * 40)
        folder = repo / "snapshots" / ("0" * 40)
    else:
        folder = tmp_path / "datasets" / "me" / "mine"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(json.dumps(SHAREGPT))
    (folder / "test.jsonl").write_text(json.dumps(SHAREGPT))
    closed = "http://127.0.0.1:9"
    offline = {
        "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "MODELSCOPE_CACHE": str(tmp_path), "HOME": str(tmp_path),
        "MODELSCOPE_ENDPOINT": closed, "MODELSCOPE_DOMAIN": "127.0.0.1:9",
    }  # fmt: skip
    command = [sys.executable, "-m", "toolweave", "data", "convert", f"{hub}::me/mine", str(tmp_path / "out.jsonl")]
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "3 samples with 1 calls" in done.stdout
    assert "test.jsonl: not read, it is another split" in done.stderr


def _data(env: dict[str, str], *arguments: str) -> str:
    """Run a command on data in a process of its own; the SDKs read the environment when they are imported."""
    command = [sys.executable, "-m", "toolweave", "data", *arguments]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_pushed_to_a_hub_comes_back(tmp_path: Path) -> None:
    hub = HubServer("me/mine")
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps(SHAREGPT))
    (folder / "notes.txt").write_text("not for the hub")

    with serve(hub.app) as url:
        home = str(tmp_path / "home")
        env = {"HF_ENDPOINT": url, "HF_HOME": home, "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_TELEMETRY": "1"}
        assert f"{url}/datasets/me/mine/commit/" in _data(env, "push", str(folder), "HF::me/mine")
        assert (hub.private, set(hub.files), hub.keys) == (True, {"train.jsonl"}, {"Bearer hf_secret"})
        (tmp_path / "more.jsonl").write_text(json.dumps(SHAREGPT))
        _data(env, "push", str(tmp_path / "more.jsonl"), "HF::me/mine")  # a data set that is there already
        assert set(hub.files) == {"train.jsonl", "more.jsonl"}
        assert "6 samples with 2 calls" in _data(env, "convert", "HF::me/mine", str(tmp_path / "out.jsonl"))


def test_what_is_pushed_to_modelscope_is_private_and_comes_back(tmp_path: Path) -> None:
    hub = ModelScopeServer()
    (tmp_path / "train.jsonl").write_text(json.dumps(SHAREGPT))
    with serve(hub.app) as url:
        home = {"HOME": str(tmp_path), "MODELSCOPE_CACHE": str(tmp_path / "cache"), "MODELSCOPE_API_TOKEN": "ms-x"}
        env = {**home, "MODELSCOPE_ENDPOINT": url, "MODELSCOPE_DOMAIN": url.removeprefix("http://")}
        _data(env, "push", str(tmp_path / "train.jsonl"), "MS::me/mine")
        assert "3 samples with 1 calls" in _data(env, "convert", "MS::me/mine", str(tmp_path / "out.jsonl"))
    assert (hub.visibility, hub.committed, hub.blobs) == (["1"], ["train.jsonl"], [json.dumps(SHAREGPT).encode()])


# --- checks ------------------------------------------------------------------------------------------------------


def _bad(**arguments: Any) -> Json:
    call = json.dumps({"name": "weather", "arguments": arguments})
    conversations = [dict(message) for message in SHAREGPT["conversations"]]
    conversations[1]["value"] = call
    return {**SHAREGPT, "conversations": conversations}


BAD = {
    Failure.MISSING: _bad(days=1),
    Failure.TYPE: _bad(city=3),
    Failure.ENUM: _bad(city="x", days=2),
    Failure.EXTRA: _bad(city="x", town="y"),
    Failure.UNKNOWN_TOOL: {**SHAREGPT, "tools": "[]"},
    Failure.SCHEMA: {**SHAREGPT, "tools": "{"},
    Failure.OBSERVATION: {"conversations": SHAREGPT["conversations"][:1] + SHAREGPT["conversations"][2:]},
    Failure.ROLES: {"conversations": SHAREGPT["conversations"][4:5] + SHAREGPT["conversations"]},
    Failure.UNSAYABLE: {"conversations": _pairs("from", "value", ("human", "a"), ("gpt", "Observation: x"))},
}


def test_every_failure_is_told_apart_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "<b>.jsonl"
    path.write_text("\n".join(map(json.dumps, [SHAREGPT, *BAD.values()])))
    report = check([str(path)])
    assert [problem.failure for problem in report.problems] == list(BAD)
    assert [problem.line for problem in report.problems] == list(range(2, len(BAD) + 2))
    assert report.tools["weather"].problems[Failure.TYPE] == 1
    write_html(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "&lt;b&gt;.jsonl" in page
    assert "<b>" not in page
    assert "http" not in page


_SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 2.0, 10**30, "", "a", "好", "12"])
_VALUES = st.recursive(
    _SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("abc"), v), max_leaves=6
)
_TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object", "strange"])


def _keywords(schemas: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    keywords: Json = {
        "type": _TYPES | st.lists(_TYPES, min_size=1, max_size=3, unique=True),
        "enum": st.lists(_VALUES, min_size=1, max_size=3),
        "const": _VALUES,
        "minimum": st.integers(-2, 2),
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minLength": st.integers(0, 2),
        "pattern": st.sampled_from(["^a", "[0-9]+", "(", "\\d", "好$"]),
        "uniqueItems": st.booleans(),
        "items": schemas,
        "required": st.lists(st.sampled_from("abc"), unique=True) | st.just(True),
        "properties": st.dictionaries(st.sampled_from("abc"), schemas, max_size=3),
        "additionalProperties": schemas | st.booleans(),
        "anyOf": st.lists(schemas, min_size=1, max_size=2),
        "not": schemas,
        "$ref": st.sampled_from(["#/$defs/x", "#/$defs/none", "http://127.0.0.1:9/x"]),
        "format": st.sampled_from(["date", "email"]),
        "nullable": st.booleans(),
    }
    return st.fixed_dictionaries({}, optional=keywords)


_SCHEMAS = st.recursive(st.fixed_dictionaries({}, optional={"type": _TYPES}), _keywords, max_leaves=8)


@settings(max_examples=300)
@given(schema=_SCHEMAS, arguments=st.dictionaries(st.sampled_from("abcd"), _VALUES, max_size=4))
def test_the_quick_validator_accepts_nothing_that_the_thorough_one_refuses(schema: Json, arguments: Json) -> None:
    tool = ToolSpec("f", "", {**schema, "$defs": {"x": {"type": "string"}}})
    quick = validate._surely_valid(ToolCall("f", arguments), tool)
    assert not quick or validate._validator(tool).is_valid(arguments)


@pytest.mark.parametrize("parameters", [{"required": [1]}, {"type": ["object", {}]}, {"enum": 7}, {"type": 3}])
def test_a_schema_that_makes_no_sense_is_the_rows_fault(parameters: Json) -> None:
    with pytest.raises(RowError):
        validate.check_call(ToolCall("f", {"a": 1}), ToolSpec("f", "", parameters))


def test_a_schema_from_outside_fetches_nothing() -> None:
    tool = {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"$ref": "http://127.0.0.1:9/x"}}},
    }
    episode = FORMATS["sharegpt"].read({**SHAREGPT, "tools": [tool]})
    with pytest.raises(DataError, match="no usable JSON Schema"):
        check_episode(episode)


def test_strategies(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [SHAREGPT, BAD[Failure.TYPE]])))
    assert load_samples(path, strategy=Strategy.NONE).report.dropped == ()
    assert load_samples(path, strategy=Strategy.DISCARD).report.reasons == {Failure.TYPE: 1}
    with pytest.raises(DataError, match="line 2"):
        load_samples(path, strategy=Strategy.ERROR)


# --- mix and split -----------------------------------------------------------------------------------------------


def _sample(number: int, agent: int) -> Sample:
    said = (Message(role="system", content=f"agent {agent}"), Message(role="user", content=f"q{number}"))
    return Sample(said, "a", meta={"visit": f"f:{number // 2}"})


@given(st.integers(2, 200), st.integers(1, 12), st.sampled_from(GroupBy), st.floats(0, 0.5), st.integers(0, 5))
def test_siblings_are_never_split(count: int, agents: int, by: GroupBy, ratio: float, seed: int) -> None:
    samples = [_sample(number, number // 2 % agents) for number in range(count)]
    parts = split(samples, ratio, by=by, seed=seed)
    assert not {group_of(s, by) for s in parts.train} & {group_of(s, by) for s in parts.test}
    assert len(parts.train) + len(parts.test) == count
    assert parts.train
    assert parts == split(samples, ratio, by=by, seed=seed)


def test_mix_ratio_draws_without_replacement() -> None:
    train, general = [_sample(0, 0), _sample(1, 0)], [_sample(number, 1) for number in range(2, 12)]
    mixed = mix_in(train, general, 2.0)
    drawn = [sample.messages[1]["content"] for sample in mixed[2:]]
    assert len(set(drawn)) == 4
    assert drawn != [sample.messages[1]["content"] for sample in general[:4]]
    with pytest.raises(DataError, match="needs 12 general samples, and there are 10"):
        mix_in(train, general, 6.0)


def test_self_cognition_uses_every_template_once_first() -> None:
    everything = self_cognition_samples(500, Persona(("卡卡罗特", "Kakarot"), "陶白白"))
    asked = [sample.messages[0]["content"] for sample in everything]
    assert len(set(asked)) > 50
    assert len(set(asked[: len(set(asked))])) == len(set(asked))
    assert all("{{" not in sample.completion for sample in everything)
    assert any("Kakarot" in sample.completion for sample in everything)
    assert all("Kakarot" not in sample.completion for sample in everything if sample.meta["lang"] is Lang.ZH)


def test_a_mix_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join([json.dumps(SHAREGPT)] * 40))
    chats = [json.dumps({"query": f"q{number}", "response": "a"}) for number in range(100)]
    (tmp_path / "chat.jsonl").write_text("\n".join(chats))
    (tmp_path / "mix.yaml").write_text(
        "sources: [{path: rows.jsonl, ratio: 0.5}]\ngeneral: [{path: chat.jsonl}]\nmix_ratio: 1.0\n"
        "self_cognition: {count: 10, name: N, author: A}\ntest_ratio: 0.1\n"
    )
    recipe = MixRecipe.read(tmp_path / "mix.yaml")
    manifests = [write_mix(recipe, tmp_path / name) for name in ("a", "b")]
    assert manifests[0] == manifests[1]
    for name in ("train.jsonl", "test.jsonl", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert manifests[0]["sources"][0]["used"] == 60
    files = manifests[0]["files"]
    assert 3 <= files["test.jsonl"]["samples"] <= 9
    assert files["train.jsonl"]["samples"] == 2 * (60 - files["test.jsonl"]["samples"]) + 10
    (tmp_path / "mix.yaml").write_text("sources: []\n")
    with pytest.raises(DataError, match="sources"):
        MixRecipe.read(tmp_path / "mix.yaml")
