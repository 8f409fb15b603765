"""The Studio without a browser: files, keys, conversations, the builder, and the API."""

from __future__ import annotations

import asyncio
import json
import re
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import strategies as st

from stub_server import serve
from toolweave.data.json_files import read_json, write_json
from toolweave.errors import ToolweaveError
from toolweave.studio.api import api
from toolweave.studio.builder import Builder, parse, shown
from toolweave.studio.cast import cast
from toolweave.studio.conversation import Conversation, Say, State, Step
from toolweave.studio.form import Form
from toolweave.studio.guard import Guard, Users
from toolweave.studio.plugins import read_arguments, save_plugin
from toolweave.studio.sharing import Share
from toolweave.studio.text import table
from toolweave.studio.transcript import transcript
from toolweave.studio.workspace import Home, Workspace
from toolweave.traces.trace import FeedbackKind, Filter
from toolweave.types import Json, Lang

AGENT = "weather_painter"
SOURCES = Path(__file__).parents[1] / "src" / "toolweave" / "studio"


def prepared(workspace: Workspace, llm: str, user: str = "local_user") -> Home:
    """Return a home whose first agent asks the scripted model."""
    home = workspace.home(user)
    home.agents()
    home.save_model("scripted", {"type": "openai", "model": "scripted", "api_base": llm})
    spec = home.agent(AGENT)
    home.save_agent(AGENT, replace(spec, builder=spec.builder | {"model": "scripted"}))
    return home


def asked(home: Home, talk: Conversation, query: str) -> None:
    talk.ask(query, lambda source: cast(home, AGENT, source))
    talk.wait(60)


@pytest.fixture
def home(workspace: Workspace, llm: str) -> Home:
    return prepared(workspace, llm)


# --- texts -----------------------------------------------------------------------------------


def test_every_string_exists_in_both_languages() -> None:
    said = table()  # raises for one that lacks a language
    used = set()
    for path in SOURCES.rglob("*.py"):
        used |= set(re.findall(r"(?:text|say)\(\s*\"([a-z_]+\.[a-z_0-9]+)\"", path.read_text("utf-8")))
    assert used
    assert not used - set(said)
    for key, phrase in said.items():
        assert re.findall(r"\{\w+\}", phrase["zh"]).sort() == re.findall(r"\{\w+\}", phrase["en"]).sort(), key


# --- keys ------------------------------------------------------------------------------------


def test_a_key_is_kept_apart_and_goes_to_its_own_address_only(
    home: Home, llm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.save_model("mine", {"type": "openai", "model": "m", "api_base": "http://one.example/v1"}, "secret-1")
    assert home.llm("mine")["api_key"] == "secret-1"
    assert "secret-1" not in json.dumps(home.models())
    assert (home.folder / "keys.json").stat().st_mode & 0o077 == 0
    home.save_model("mine", {"type": "openai", "model": "m", "api_base": "http://two.example/v1"})
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-the-environment")
    assert home.llm("mine")["api_key"] == "EMPTY"
    home.save_model("public", {"type": "openai", "model": "m"})
    assert "api_key" not in home.llm("public")  # the client takes it from the environment
    home.export_agent(AGENT, archive := home.folder / "out.zip")
    with zipfile.ZipFile(archive) as packed:
        assert not any(b"secret" in packed.read(name) for name in packed.namelist())


def test_a_plugins_key_stays_out_of_the_agents_files(home: Home) -> None:
    document = {
        "openapi": "3.0.0",
        "servers": [{"url": "https://api.example"}],
        "paths": {"/a": {"get": {"operationId": "a"}}},
    }
    imported = save_plugin(home, AGENT, json.dumps(document), "plugin-secret", "bearer")
    assert [tool.name for tool in imported.tools] == ["a"]
    files = b"".join(path.read_bytes() for path in home.agent_folder(AGENT).iterdir())
    assert b"plugin-secret" not in files
    assert home.key(f"plugin:{AGENT}") == "plugin-secret"


# --- conversations ---------------------------------------------------------------------------


def test_a_visit_with_two_simulated_tools_is_shown_recorded_and_rated(home: Home) -> None:
    talk = home.conversation(AGENT, "s1")
    asked(home, talk, "查一下杭州的天气，再画一张西湖")
    (turn,) = talk.turns
    assert turn.state is State.ANSWERED, turn.note
    steps = [part for part in turn.parts if isinstance(part, Step)]
    assert [(step.tool, step.simulated, step.error) for step in steps] == [
        ("amap_weather", True, False),
        ("image_gen", True, False),
    ]
    assert all("Action" not in part.text for part in turn.parts if isinstance(part, Say))
    assert "/pictures/" in turn.answer
    messages = transcript(talk.turns, Lang.EN).messages
    assert [message["metadata"]["log"] for message in messages if "metadata" in message] == ["simulated"] * 2

    talk.give_feedback(0, FeedbackKind.THUMBS_DOWN)
    talk.give_feedback(0, FeedbackKind.CORRECTION, "杭州晴，20度。")
    said = {item.kind: item.text for item in home.traces.trace(turn.trace).feedback}
    assert said == {FeedbackKind.THUMBS_DOWN: "", FeedbackKind.CORRECTION: "杭州晴，20度。"}
    assert len(home.traces.visit(turn.trace).traces) == 3

    again = Conversation(home.conversations / AGENT / "s1.json", home.traces)
    assert again.turns == talk.turns


def test_a_stopped_visit_ends_at_once_and_can_be_asked_again(home: Home) -> None:
    talk = home.conversation(AGENT, "s2")
    talk.ask("慢慢讲一个故事", lambda source: cast(home, AGENT, source))
    with pytest.raises(ToolweaveError, match="still being answered"):
        talk.ask("天气", lambda source: cast(home, AGENT, source))
    while not talk.turns[0].parts:
        talk.wait(0.05)
    talk.stop()
    talk.wait(20)
    assert talk.turns[0].state is State.STOPPED
    assert len(talk.turns[0].answer) < 500
    talk.rewind(0)
    asked(home, talk, "你能做什么")
    assert [turn.query for turn in talk.turns] == ["你能做什么"]


def test_who_follows_sees_the_end_however_slow_the_disk_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(path: Path, value: Json) -> None:
        time.sleep(0.3)
        write_json(path, value)

    async def states(talk: Conversation) -> list[State]:
        seen = []
        async for _ in talk.follow():
            seen.append(talk.turns[0].state)
            if talk.turns[0].parts:
                talk.stop()
        return seen

    monkeypatch.setattr("toolweave.studio.conversation.write_json", slow)
    talk = home.conversation(AGENT, "slow-disk")
    talk.ask("慢慢讲一个故事", lambda source: cast(home, AGENT, source))
    assert asyncio.run(states(talk))[-1] is State.STOPPED


def test_what_goes_wrong_is_said_in_the_conversation(home: Home) -> None:
    home.save_model("gone", {"type": "openai", "model": "m", "api_base": "http://127.0.0.1:9/v1", "max_retries": 0})
    talk = home.conversation(AGENT, "s3")
    talk.ask("天气", lambda source: cast(home, AGENT, source, model="gone"))
    talk.wait(60)
    assert talk.turns[0].state is State.ENDED
    assert "127.0.0.1:9" in talk.turns[0].note


def test_twenty_conversations_at_a_time_keep_their_messages(home: Home) -> None:
    talks = [home.conversation(AGENT, f"many-{number}") for number in range(20)]
    for number, talk in enumerate(talks):
        talk.ask(f"#{number}", lambda source: cast(home, AGENT, source))
    for number, talk in enumerate(talks):
        talk.wait(120)
        assert talk.turns[0].answer == f"收到 #{number}。", talk.turns[0].note
    traces = [talk.turns[0].trace for talk in talks]
    assert len(set(traces)) == 20
    for number, trace in enumerate(traces):
        assert home.traces.trace(trace).reply.text == f"收到 #{number}。"


# --- form and builder ------------------------------------------------------------------------


def test_the_form_changes_only_what_was_changed(home: Home) -> None:
    spec = home.agent(AGENT)
    odd = spec.builder | {
        "instruction": ["one", "two"],
        "strange": {"kept": 1},
        "tools": {"unknown_tool": {"use": True}},
    }
    spec = replace(spec, builder=odd)
    assert Form.of(spec).apply(spec).builder == odd
    changed = replace(Form.of(spec), name="New", tools=["image_gen"]).apply(spec).builder
    assert changed["name"] == "New"
    assert changed["instruction"] == ["one", "two"]
    assert changed["tools"]["unknown_tool"] == {"use": True}
    assert changed["tools"]["image_gen"]["use"] is True
    assert set(Form(model="nowhere").problems(spec, Lang.EN)) == {"name", "instruction", "model"}


@given(st.text(max_size=60), st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
def test_a_builders_reply_never_shows_its_configuration(answer: str, config: dict[str, str]) -> None:
    answer = answer.replace("Config:", "").replace("Answer:", "").strip()
    written = json.dumps(config, ensure_ascii=False)
    reply = f"Answer: {answer}\nConfig: {written}\nRichConfig: {written}"
    assert parse(reply).answer == answer
    assert parse(reply).config == config
    for end in range(len("Answer: "), len(reply)):
        assert answer.startswith(shown(reply[:end]))


def test_an_agent_is_built_by_chat_and_by_the_guide(home: Home) -> None:
    *_, last = Builder(home, AGENT, Lang.ZH).chat("我要一个诗人", "scripted")
    assert last.config is not None
    spec = home.agent(AGENT)
    assert (spec.name, spec.instruction) == ("诗人", "按主题写诗；解释诗意")
    assert spec.suggestions == ("写一首春天的诗", "写一首关于海的诗")

    key = home.new_agent(Lang.EN)
    guide = Builder(home, key, Lang.EN)
    for said in ("It looks up the weather", "Skye", "Be brief\nBe kind", "Weather in Rome?"):
        for _ in guide.chat(said):
            pass
    spec = home.agent(key)
    assert (spec.name, spec.description, spec.instruction) == ("Skye", "It looks up the weather", "Be brief; Be kind")
    assert spec.suggestions == ("Weather in Rome?",)
    assert [entry.key for entry in spec.tools if entry.use] == ["amap_weather"]
    assert len(guide.history) == 8


def test_a_forms_values_become_arguments() -> None:
    schema = {"properties": {"n": {"type": "integer"}, "tags": {"type": "array"}, "note": {"type": "string"}}}
    assert read_arguments(schema, {"n": 3.0, "tags": "[1, 2]", "note": ""}) == {"n": 3, "tags": [1, 2]}
    with pytest.raises(ToolweaveError, match="tags is not JSON"):
        read_arguments(schema, {"tags": "[1"})


# --- API -------------------------------------------------------------------------------------


@pytest.fixture
def client(workspace: Workspace, home: Home) -> Iterator[httpx.Client]:
    with serve(_app(workspace, Users())) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as made:
        yield made


def _app(workspace: Workspace, users: Users) -> FastAPI:
    app = FastAPI()
    app.add_middleware(Guard, users=users)
    app.include_router(api(workspace, users))

    @app.exception_handler(ToolweaveError)
    async def refused(_: object, error: ToolweaveError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    return app


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_an_agent_answers_as_an_openai_endpoint(client: httpx.Client, home: Home) -> None:
    body = {"model": AGENT, "messages": [{"role": "user", "content": "杭州天气怎样"}]}
    whole = client.post(f"/agents/{AGENT}/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert "杭州的天气是" in whole
    assert "Action" not in whole
    streamed = client.post(f"/agents/{AGENT}/v1/chat/completions", json={**body, "stream": True}).text
    pieces = [frame["choices"][0]["delta"].get("content", "") for frame in events(streamed)]
    assert "".join(pieces) == whole
    assert streamed.rstrip().endswith("data: [DONE]")
    assert home.traces.counts(Filter()).visits >= 1


def test_agentfabrics_routes_answer(client: httpx.Client, home: Home) -> None:
    frames = events(client.post(f"/preview/chat/{AGENT}/s9", data={"params": '{"content": "你能做什么"}'}).text)
    assert frames[-1]["is_final"] is True
    assert str(frames[-1]["data"]).strip() == "我可以查天气，也可以画画。"
    history = client.get(f"/preview/chat/{AGENT}/s9").json()["history"]
    assert [message["role"] for message in history] == ["user", "assistant"]
    assert client.delete(f"/preview/chat/{AGENT}/s9").json()["success"]
    assert client.get(f"/preview/chat/{AGENT}/s9").json()["history"] == []

    built = events(client.post(f"/builder/chat/{AGENT}", data={"params": '{"content": "我要一个诗人"}'}).text)
    assert any((frame.get("config") or {}).get("name") == "诗人" for frame in built)
    config = client.get(f"/builder/config/{AGENT}").json()["data"]
    assert config["builder_config"]["name"] == "诗人"
    assert "amap_weather" in config["available_tool_list"]

    update = {"builder_config": json.dumps(config["builder_config"] | {"knowledge": ["/elsewhere/a.txt"]})}
    sent = client.post(f"/builder/update/{AGENT}", data=update, files={"files": ("../a.txt", b"text")})
    assert sent.json()["success"]
    assert home.agent(AGENT).knowledge_files()[0].read_text() == "text"
    assert client.get(f"/builder/config_files/{AGENT}/a.txt").text == "text"
    assert client.get(f"/builder/config_files/{AGENT}/builder_config.json").status_code == 404

    packed = client.get(client.get(f"/builder/publish/zip/{AGENT}").json()["output_url"]).content
    assert client.post("/builder/import/copy", files={"file": ("agent.zip", packed)}).json()["success"]
    assert home.agent("copy").name == "诗人"
    refused = client.post("/builder/import/copy", json={"url": "http://127.0.0.1:9/agent.zip"})
    assert refused.status_code == 400
    assert home.agent("copy").name == "诗人"


def test_users_are_kept_apart_and_other_sites_out(workspace: Workspace, llm: str) -> None:
    users = Users({"ann": "a-pass", "bob": "b-pass"})
    ann, bob = prepared(workspace, llm, "ann"), prepared(workspace, llm, "bob")
    mine = ann.new_agent()
    key = workspace.shares.add(Share("ann", AGENT))
    other = workspace.shares.add(Share("bob", AGENT))
    body = {"model": AGENT, "messages": [{"role": "user", "content": "#7"}]}
    with serve(_app(workspace, users)) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        assert client.get(f"/builder/config/{AGENT}").status_code == 401
        assert client.get(f"/builder/config/{mine}", auth=("ann", "wrong")).status_code == 401
        assert client.get(f"/builder/config/{mine}", auth=("ann", "a-pass")).status_code == 200
        assert client.get(f"/builder/config/{mine}", auth=("bob", "b-pass")).status_code == 400
        path = f"/agents/{AGENT}/v1/chat/completions"
        assert client.post(path, json=body).status_code == 401
        foreign = {"Origin": "http://evil.example"}
        assert client.post(path, json=body, auth=("ann", "a-pass"), headers=foreign).status_code == 403
        assert client.post(path, json=body, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        # The key opens one agent, and not another of the same name.
        assert (
            client.post(
                f"/agents/{mine}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
            ).status_code
            == 401
        )
    assert key != other
    assert ann.traces.counts(Filter()).traces == 1
    assert bob.traces.counts(Filter()).traces == 0
    visited, agent = workspace.visitor(key)
    assert visited.agent(agent).folder == ann.agent_folder(AGENT)
    with pytest.raises(ToolweaveError, match="not shared"):
        visited.agent(mine)
    workspace.shares.remove(Share("ann", AGENT))
    with pytest.raises(ToolweaveError, match="not shared"):
        workspace.visitor(key)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", ".hidden", "a\0b", "share:k"])
def test_no_name_leaves_its_folder(workspace: Workspace, home: Home, name: str) -> None:
    for use in (workspace.home, home.agent, lambda each: home.conversation(AGENT, each)):
        with pytest.raises(ToolweaveError):
            use(name)


def test_an_archive_brings_its_models_but_no_trust(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    write_json(folder / "builder_config.json", {"name": "Other", "instruction": "x", "model": "theirs"})
    write_json(
        folder / "model_config.json",
        {
            "theirs": {"type": "dashscope", "model": "m", "api_base": "http://theirs.example/v1"},
            "here": {"type": "toolweave", "model": "/"},
        },
    )
    with zipfile.ZipFile(archive := tmp_path / "agent.zip", "w") as packed:
        for path in folder.iterdir():
            packed.write(path, f"config/local_user/{path.name}")
    key = home.import_agent(archive)
    spec = home.agent(key)
    assert home.llm("theirs", spec)["api_key"] == "EMPTY"
    with pytest.raises(ToolweaveError, match="came with the agent"):
        home.llm("here", spec)
    assert "theirs" not in read_json(home.folder / "model_config.json")
