"""AgentFabric's files, folders and archives."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolweave.agents.archive import MAX_FILES, export_agent, import_agent
from toolweave.agents.check import check_file, round_trip
from toolweave.agents.spec import AgentSpec, FileKind, Layout, load_agent
from toolweave.cli import main
from toolweave.errors import DataError, ToolweaveError
from toolweave.models.scripted import ScriptedModel
from toolweave.types import Lang

BUILDER = {
    "name": "天气助手",
    "description": "查天气",
    "instruction": "先查再答",
    "prompt_recommend": ["海淀天气？"],
    "knowledge": [],
    "tools": {"amap_weather": {"name": "高德天气", "is_active": True, "use": True}, "gone": {"use": True}},
    "model": "qwen-max-1201",
    "x-unknown": {"b": [1, None], "a": 0.5},
}
MODELS = {"qwen-max": {"type": "dashscope", "model": "qwen-max", "length_constraint": {"input": 6000}}}


def write(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return folder


def pack(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config/builder_config.json", json.dumps(BUILDER))
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_an_agent_is_read_and_what_is_missing_is_named(tmp_path: Path) -> None:
    spec = load_agent(write(tmp_path, builder_config=BUILDER, model_config=MODELS))
    assert (spec.name, spec.lang, spec.prologue, spec.suggestions) == ("天气助手", Lang.ZH, "", ("海淀天气？",))
    assert spec.llm("qwen-max")["model_server"] == "dashscope"
    problems = "\n".join(spec.problems())
    assert "tool 'gone'" in problems
    assert "model 'qwen-max-1201' is not in model_config.json" in problems
    assert "model 'qwen-max-1201' is retired" in problems
    with pytest.raises(ToolweaveError, match="known: qwen-max"):
        spec.llm()


def test_an_agent_runs(tmp_path: Path) -> None:
    spec = load_agent(write(tmp_path, builder_config=BUILDER | {"model": "m"}))
    with pytest.warns(UserWarning, match="tool 'gone'"):
        bot = spec.role_play(ScriptedModel(["你好"]))
    assert list(bot.function_map) == ["amap_weather"]
    assert "".join(bot.run("你好", lang=spec.lang)) == "你好"


def test_absent_fields_are_tolerated() -> None:
    spec = AgentSpec(builder={"name": "x"})
    assert (spec.tools, spec.lang, spec.problems(), spec.function_list()) == ((), Lang.ZH, (), [])


KEYS = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_unknown_keys_survive(tmp_path_factory: pytest.TempPathFactory, extra: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("agent")
    content = BUILDER | extra
    AgentSpec(builder=content).save(folder)
    read = load_agent(folder).builder
    assert read == content
    assert list(read) == list(content)


def test_agent_files_cannot_set_what_is_the_operators(tmp_path: Path) -> None:
    tools = {"code_interpreter": {"use": True, "work_dir": "/root", "max_output": 10}}
    spec = load_agent(write(tmp_path, builder_config={"name": "x", "tools": tools}))
    with pytest.warns(UserWarning, match="'work_dir' is for the operator"):
        (tool,) = spec.function_list()
    assert tool.cfg == {"max_output": 10}


def test_plugin_tools_belong_to_their_agent_alone() -> None:
    document = {"openapi": "3.0.0", "servers": [{"url": "https://a.example"}], "paths": {"/x": {"get": {}}}}
    own = AgentSpec(plugin={"schema": document, "auth": {"type": "API Key", "apikey": "k1"}})
    other = AgentSpec(plugin={"schema": document, "auth": {"type": "API Key", "apikey": "k2"}})
    (mine,), (theirs,) = own.function_list(), other.function_list()
    assert mine is not theirs
    assert ("k1" in repr(vars(mine)), "k1" in repr(vars(theirs))) == (False, False)
    assert AgentSpec().function_list() == []
    with pytest.raises(ToolweaveError, match="unknown tool 'get_x'"):
        AgentSpec(builder={"name": "x"}).role_play(ScriptedModel([]), function_list=["get_x"])


def test_folders_are_as_agentfabric_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFAULT_AGENT_DIR", "/home/user/user_agents")
    layout = Layout.from_env()
    # Upstream replaced every "user" of the path.
    assert layout.agent() == Path("/home/user/user_agents/config/local_user")
    assert layout.history("s1", "u1") == Path("/home/user/user_agents/history/u1/preview/s1")
    for name in ("..", "a/b", "", "a\\b", "/x"):
        with pytest.raises(ToolweaveError, match="cannot be part of a path"):
            layout.agent(name)


def test_the_environment_names_the_installations_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = write(tmp_path / "shared", model_config=MODELS)
    monkeypatch.setenv("MODEL_CONFIG_FILE", str(shared / "model_config.json"))
    agent = write(tmp_path / "agent", builder_config=BUILDER)
    assert list(load_agent(agent).models) == ["qwen-max"]
    assert list(load_agent(write(agent, model_config={"own": {"model": "m"}})).models) == ["own"]


def test_knowledge_elsewhere_is_never_read(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    names = ["/etc/passwd", "../secret.txt", "config/a.txt", "/tmp/old/place/b.txt", "link.txt"]
    write(folder, builder_config={"name": "x", "knowledge": names})
    (tmp_path / "secret.txt").write_text("s")
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    spec = load_agent(folder)
    assert [path.name for path in spec.knowledge_files()] == ["a.txt", "b.txt"]
    assert sum("is not in the agent's folder" in problem for problem in spec.problems()) == 3


def test_an_archive_comes_back_without_keys(tmp_path: Path) -> None:
    plugin = {"schema": "", "auth": {"type": "API Key", "apikey": "s3cret", "apikey_type": "Bearer"}}
    folder = write(tmp_path / "a", builder_config=BUILDER | {"knowledge": ["/old/k.txt"]}, openapi_plugin_config=plugin)
    (folder / "k.txt").write_text("knowledge")
    export_agent(load_agent(folder), tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert json.loads(archive.read("config/builder_config.json"))["knowledge"] == ["config/k.txt"]
        assert all(b"s3cret" not in archive.read(name) for name in archive.namelist())
    spec = import_agent(tmp_path / "a.zip", tmp_path / "b")
    assert spec.builder == BUILDER | {"knowledge": ["k.txt"]}
    assert [path.read_text() for path in spec.knowledge_files()] == ["knowledge"]
    assert spec.plugin["auth"] == {"type": "API Key", "apikey": "", "apikey_type": "Bearer"}


def test_the_older_layout_is_read_and_apps_are_not(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as archive:
        archive.writestr("config/local_user/builder_config.json", json.dumps(BUILDER))
        archive.writestr("app.py", "raise SystemExit")
    import_agent(tmp_path / "old.zip", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["builder_config.json"]


@pytest.mark.parametrize("name", ["../evil", "config/../../evil", "/evil", "config\\..\\evil", "c:/evil"])
def test_a_member_outside_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="would land outside"):
        import_agent(pack(tmp_path / "x.zip", **{name: "x"}), tmp_path / "new")
    assert not list(tmp_path.glob("new*")) + list(tmp_path.glob(".import*"))


def test_links_bombs_and_crowds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = zipfile.ZipInfo("config/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(pack(tmp_path / "link.zip"), "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with zipfile.ZipFile(pack(tmp_path / "bomb.zip"), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config/bomb.txt", b"0" * 3_000_000)
    crowd = pack(tmp_path / "crowd.zip", **{f"config/{number}": "" for number in range(MAX_FILES)})
    monkeypatch.setattr("toolweave.agents.archive.MAX_BYTES", 2_000_000)
    (tmp_path / "not.zip").write_text("no")
    for name, message in (("link", "a link"), ("bomb", "unpacks to more"), ("crowd", "more than"), ("not", "read")):
        with pytest.raises(DataError, match=message):
            import_agent(tmp_path / f"{name}.zip", tmp_path / "new")
        assert not (tmp_path / "new").exists()
    assert crowd.exists()


def test_the_check_names_kinds_and_writes_them_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {"openapi": "3.1.0", "servers": [{"url": "https://a.example"}], "paths": {"/x": {"get": {}}}}
    folder = write(
        tmp_path, builder_config_wuxia=BUILDER, models=MODELS, tool_config={"t": {"use": False}}, doc=document
    )
    kinds = [check_file(folder / f"{name}.json").kind for name in ("builder_config_wuxia", "models", "tool_config")]
    assert kinds == [FileKind.BUILDER, FileKind.MODELS, FileKind.TOOLS]
    assert round_trip(check_file(folder / "doc.json"), tmp_path / "again").exists()
    with pytest.raises(SystemExit) as ended:
        main(["agents", "check", "--roundtrip", str(tmp_path / "out"), str(folder / "builder_config_wuxia.json")])
    assert not ended.value.code
    assert json.loads((tmp_path / "out" / "builder_config_wuxia.json").read_text("utf-8")) == BUILDER
    assert "warning: tool 'gone'" in capsys.readouterr().out
    write(tmp_path, other={"x": 1})
    with pytest.raises(DataError, match="none of AgentFabric's files"):
        check_file(tmp_path / "other.json")
