"""The trace store: linking, redaction, flags, review, export, and the commands on it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolweave import cli
from toolweave.data.jsonl import read_samples
from toolweave.data.problems import RowError
from toolweave.data.synthesize import held_out_episodes
from toolweave.data.validate import check_call
from toolweave.dialects import get_dialect
from toolweave.dialects.base import Prompt
from toolweave.errors import DataError
from toolweave.models.scripted import ScriptedModel
from toolweave.traces.curate import flag, judge
from toolweave.traces.database import StoreError
from toolweave.traces.export import Selection, export
from toolweave.traces.redaction import Redactor
from toolweave.traces.review import review
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import Exchange, FeedbackKind, Filter, ModelReply, Verdict
from toolweave.types import Json, Message, ToolCall, ToolSpec

SCHEMA = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
WEATHER = ToolSpec("amap_weather", "获取对应城市的天气数据", SCHEMA)
CALL = '工具调用\nAction: amap_weather\nAction Input: {"location": "朝阳区"}\n'
OBSERVED = "朝阳区的天气是晴温度是12度。"
DIALECT = get_dialect("v06")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with TraceStore(tmp_path / "traces.db", create=True) as opened:
        yield opened


def record(store: TraceStore, messages: Sequence[Message], reply: str, finish: str = "stop", **request: Any) -> str:
    record.clock += 1.0
    body = {"model": "m", "messages": list(messages), "stop": list(DIALECT.stop), **request}
    return store.record(Exchange(body, ModelReply(reply, finish_reason=finish), record.clock, 0.1))


record.clock = 0.0


def visit(
    store: TraceStore,
    query: str,
    replies: Sequence[str],
    observations: Sequence[str] = (),
    history: Sequence[Message] = (),
) -> list[str]:
    """Record a turn as RolePlay sends it; return the ids of its traces."""
    messages = DIALECT.start(Prompt(query, (WEATHER,), "天气助手", history=tuple(history)))
    ids = []
    for number, reply in enumerate(replies):
        ids.append(record(store, messages, reply))
        if number < len(observations):
            messages = DIALECT.advance(messages, reply, observations[number])
    return ids


def rules(store: TraceStore, trace: str) -> dict[str, str]:
    flag(store)
    return {item.rule: item.why for item in store.trace(trace).flags}


def test_turns_of_one_visit_are_linked_and_like_visits_are_not_mixed_up(store: TraceStore) -> None:
    first = visit(store, "朝阳区天气怎样？", [CALL, "晴，12度。"], [OBSERVED])
    second = visit(store, "朝阳区天气怎样？", [CALL, "晴，12度。"], [OBSERVED])
    history = [Message(role="user", content="朝阳区天气怎样？"), Message(role="assistant", content="晴，12度。")]
    next_turns = [visit(store, "那海淀区呢？", ["不知道。"], history=history)[0] for _ in range(2)]
    shown = CALL + f"\nObservation: <result>{OBSERVED}</result>\nAnswer:晴，12度。"
    history[1] = Message(role="assistant", content=shown)
    visits = store.visits()
    assert [[trace.turn for trace in found.traces] for found in visits] == [[0, 0, 1], [0, 0, 1]]
    assert {found.traces[-1].id for found in visits} == set(next_turns)
    assert store.visit(first[1]).id != store.visit(second[1]).id
    # An app may keep all that the user saw as its history.
    third = visit(store, "朝阳区天气怎样？", [CALL, "晴，12度。"], [OBSERVED])
    visit(store, "那海淀区呢？", ["不知道。"], history=history)
    assert len(store.visit(third[0]).traces) == 3


def test_native_tool_calls_are_linked(store: TraceStore) -> None:
    user = {"role": "user", "content": "天气"}
    call = {"id": "call_1", "type": "function", "function": {"name": "amap_weather", "arguments": "{}"}}
    tools = [WEATHER.openai()]
    store.record(Exchange({"messages": [user], "tools": tools}, ModelReply("", (call,), "tool_calls"), 1, 0.1))
    more = [
        user,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "error: no"},
    ]
    store.record(Exchange({"messages": more, "tools": tools}, ModelReply("晴", finish_reason="stop"), 2, 0.1))
    (found,) = store.visits()
    assert [trace.turn for trace in found.traces] == [0, 0]
    assert set(rules(store, found.traces[0].id)) == {"invalid_arguments", "tool_error"}
    assert "contradiction" in rules(store, found.traces[1].id)


@pytest.mark.parametrize(
    ("replies", "observations", "rule"),
    [
        (["抱歉，我无法获取实时天气。"], (), "no_call"),
        (["请稍等，我来查一下。"], (), "no_call"),
        (["今天26度。"], (), "no_call"),
        (["Action: weather\nAction Input: {}\n"], (), "unknown_tool"),
        (["Action: amap_weather\nAction Input: {}\n"], (), "invalid_arguments"),
        (["Action: amap_weather\nAction Input: {\n"], (), "invalid_arguments"),
        ([CALL, "抱歉，无法获取实时天气数据。"], [OBSERVED], "contradiction"),
        ([CALL, "今天很好。"], [OBSERVED], "missing_facts"),
        ([CALL, "晴，12度，湿度45%。"], [OBSERVED], "invented_facts"),
        ([CALL, CALL], [OBSERVED], "repeated_call"),
        ([""], (), "empty_reply"),
    ],
)
def test_rules_say_why(store: TraceStore, replies: list[str], observations: list[str], rule: str) -> None:
    found = rules(store, visit(store, "朝阳区天气怎样？", replies, observations)[-1])
    assert rule in found
    assert found[rule]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "缺少 location"),
        ({"location": 3}, "location 的值 3 应为 string 类型"),
        ({"location": "北京", "day": 1}, "没有这个参数：day"),
    ],
)
def test_wrong_arguments_are_explained_in_chinese_too(arguments: Json, told: str) -> None:
    with pytest.raises(RowError) as raised:
        check_call(ToolCall("amap_weather", arguments), WEATHER)
    assert raised.value.zh == f"amap_weather 的参数不符合定义：{told}"


def test_rules_find_nothing_wrong_with_a_right_visit(store: TraceStore) -> None:
    ids = visit(store, "朝阳区天气怎样？", [CALL, "朝阳区今天晴，12度。"], [OBSERVED])
    ids += visit(store, "你好", ["你好！有什么可以帮你？"])
    assert not any(rules(store, trace) for trace in ids)


def test_what_comes_after_flags_what_came_before(store: TraceStore) -> None:
    (trace,) = visit(store, "海淀区天气怎样？", ["你好！"])
    assert rules(store, trace) == {}
    history = [Message(role="user", content="海淀区天气怎样？"), Message(role="assistant", content="你好！")]
    visit(store, "不对，我问的是天气", ["好的。"], history=history)
    assert "user_correction" in rules(store, trace)
    store.give_feedback(trace, FeedbackKind.THUMBS_DOWN)
    assert "thumbs_down" in rules(store, trace)
    failed = visit(
        store, "朝阳区天气怎样？", [CALL, "抱歉，查询失败。"], ["Tool api amap_weather failed to call. Args: {}"]
    )
    assert "tool_error" in rules(store, failed[0])
    cut = record(store, DIALECT.start(Prompt("你好", (WEATHER,))), "你好你好", finish="length")
    assert "no_stop" in rules(store, cut)


def test_a_judge_adds_its_flags(store: TraceStore) -> None:
    ids = [visit(store, query, ["你好！"])[0] for query in ("你好", "嗨", "早")]
    model = ScriptedModel(['{"right": false, "why": "rude"}', 'Yes: {"right": true}', "hm"])
    assert judge(store, model) == (3, 1, 1)
    assert rules(store, ids[0]) == {"judge": "rude"}
    assert rules(store, ids[1]) == {}


@given(st.text(alphabet=st.sampled_from("013589 -+.@aZ中XsK_\n"), max_size=60) | st.text())
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = Redactor().text(text)
    assert Redactor().text(once) == once


def test_private_data_and_keys_never_reach_the_disk(tmp_path: Path) -> None:
    config = tmp_path / "redact.yaml"
    config.write_text("redact: [phone, email, id_number]\npatterns: {order: 'ORD-[0-9]+'}\n", "utf-8")
    private = [
        "13912345678",
        "li.lei@corp.cn",
        "110105199003078515",
        "ORD-7788991",
        "sk-abcdefghij1234567890",
        "my-token-1",
    ]
    text = "我的资料：" + "，".join(private)
    with TraceStore(tmp_path / "t.db", Redactor.from_file(config), create=True) as store:
        request = {"messages": [{"role": "user", "content": text}], "user": private[0]}
        arguments = '{"phone": 13912345678}'
        call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
        trace = store.record(Exchange(request, ModelReply(text, (call,)), 1, 1, secrets=("my-token-1",)))
        (kept,) = store.trace(trace).reply.tool_calls
        assert json.loads(kept["function"]["arguments"]) == {"phone": 13800000000}  # still JSON
        assert "ORD" not in store.trace(trace).query
        stored = b"".join(file.read_bytes() for file in tmp_path.glob("t.db*"))
        assert not [value for value in private if value.encode() in stored]
        # What is forgotten is gone from the file too.
        assert store.forget(Filter(ids=(trace,))) == 1
        stored = b"".join(file.read_bytes() for file in tmp_path.glob("t.db*"))
        assert "我的资料".encode() not in stored
    assert (tmp_path / "t.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["redact: [nothing]", "patterns: {a: '('}", "patterns: {a: 'b*'}", "[", "other: 1"])
def test_a_bad_redaction_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.yaml").write_text(content, "utf-8")
    with pytest.raises(DataError):
        Redactor.from_file(tmp_path / "r.yaml")


def test_filters_and_counts(store: TraceStore) -> None:
    visit(store, "朝阳区天气怎样？", [CALL, "抱歉，无法获取实时天气数据。"], [OBSERVED])
    visit(store, "你好", ["你好！"])
    record(store, [Message(role="user", content='say "hi"')], "hi", model="other")
    flag(store)
    assert [found.query for found in store.visits(limit=2, offset=1)] == ["你好", "朝阳区天气怎样？"]
    for wanted, count in (
        (Filter(agent="天气助手"), 3),
        (Filter(model="other"), 1),
        (Filter(tool="amap_weather"), 3),
        (Filter(rule="contradiction"), 1),
        (Filter(rule="*"), 1),
        (Filter(text='say "hi"'), 1),
        (Filter(verdict=Verdict.ACCEPTED), 0),
        (Filter(until=0), 0),
    ):
        assert store.counts(wanted).traces == len(list(store.traces(wanted))) == count
    assert store.counts().by_tool == {"amap_weather": 3}
    with pytest.raises(DataError, match="more than one trace"):
        store.trace("t")


def test_a_store_is_told_from_other_files(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no trace store"):
        TraceStore(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("hello " * 1000, "utf-8")
    with pytest.raises(StoreError, match="not a database"):
        TraceStore(tmp_path / "text.db")


def test_review_queue_by_keys(store: TraceStore) -> None:
    from rich.console import Console

    good = visit(store, "你好", ["你好！"])[0]
    bad = visit(store, "朝阳区天气怎样？", [CALL, "抱歉，无法获取\x1b[31m。"], [OBSERVED])
    flag(store)
    screen = io.StringIO()
    keys = iter("mesbxr")  # whole messages, edit, skip, back, no such key, reject; then the input ends
    given_ = review(
        store, Filter(), "li", Console(file=screen), lambda: next(keys, ""), lambda reply: "朝阳区今天晴，12度。"
    )
    assert given_ == {Verdict.CORRECTED: 1, Verdict.REJECTED: 1}
    assert store.trace(bad[1]).review.label == "朝阳区今天晴，12度。"
    assert store.trace(bad[1]).review.reviewer == "li"
    assert store.trace(good).review.verdict is Verdict.REJECTED
    assert "contradiction" in screen.getvalue()
    assert "\x1b[31m" not in screen.getvalue()


def test_export_carries_lineage_and_balance(store: TraceStore, tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    bad = visit(store, "朝阳区天气怎样？", [CALL, "抱歉，无法获取。"], [OBSERVED])
    for number in range(3):
        visit(store, f"请告诉我第{number}个城市里有什么好玩的地方", [f"城市太多，第{number}个是哪一个呢？"])
        visit(store, f"请告诉我第{number}个城市里有什么好玩的地方", [f"城市太多，第{number}个是哪一个呢？"])
    store.review(bad[1], Verdict.CORRECTED, "li", "朝阳区今天晴，12度。")
    flag(store)
    report = export(store, target, (), Selection(near=1))
    (row,) = read_samples(target)
    assert row.completion == "朝阳区今天晴，12度。"
    assert row.tools == (WEATHER,)
    assert row.meta["edited_from"] == "抱歉，无法获取。"
    assert (row.meta["trace"], row.meta["reviewer"], row.meta["flags"][0]["rule"]) == (bad[1], "li", "contradiction")
    assert report.by_rule["contradiction"] == 1
    report = export(store, target, (), Selection(clean=True, near=1))
    assert (report.rows, report.left_out["near-duplicate"], report.by_tool["-"]) == (5, 3, 3)
    calling = [sample for sample in read_samples(target) if sample.meta["trace"] == bad[0]]
    assert calling[0].completion == CALL + "Observation:"  # the stop word that the server cut
    report = export(store, target, (), Selection(clean=True, near=1, max_per_tool=2))
    assert (report.rows, report.by_tool["-"]) == (4, 2)
    assert export(store, target, (), Selection(clean=True, near=0.5)).rows < 5


def test_export_fails_on_what_evaluation_asks(store: TraceStore, tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    query = max((turn.query for episode in held_out_episodes() for turn in episode.turns), key=len)
    visit(store, query + "！", ["好的。"])
    visit(store, "完全不同的一个问题，关于编织毛衣", ["好的。"])
    queries = [query]
    with pytest.raises(DataError, match="1 of 2 rows ask what evaluation asks"):
        export(store, target, queries, Selection(clean=True))
    assert not target.exists()
    report = export(store, target, queries, Selection(clean=True), drop_held_out=True)
    assert (report.rows, report.left_out["held out for evaluation"]) == (1, 1)


def test_the_commands(store: TraceStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(["traces", arguments[0], "--store", str(store.path), *arguments[1:]])
        assert not stop.value.code
        return capsys.readouterr().out

    bad = visit(store, "朝阳区天气怎样？", [CALL, "抱歉，无法获取。"], [OBSERVED])
    held = tmp_path / "held.txt"
    held.write_text("明天会下雨吗\n", "utf-8")
    assert "1 traces in 1 visits" in run("list", "--rule", "*")
    assert "contradiction" in run("show", bad[0])
    assert "rejected 2 traces" in run("reject", store.visit(bad[0]).id)
    assert "accepted 1 traces" in run("accept", bad[0])
    assert bad[1] in run("correct", bad[1], "--reply", "晴，12度。", "--reviewer", "li")
    run("thumb", bad[1], "--down")
    assert "thumbs_down" in run("flag")
    assert "2 samples (amap_weather 2)" in run("export", str(tmp_path / "o.jsonl"), "--held_out", str(held))
    assert "forgot 2 traces" in run("forget", "--all")
    with pytest.raises(SystemExit) as stop:
        cli.main(["traces", "forget", "--store", str(store.path)])
    assert stop.value.code == 2
