"""Dialects: byte-identical to the recorded clients, and lawful on any text a user or model may write."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolweave.data.msagent_tools import read_system
from toolweave.dialects import CallsPerReply, Dialect, Prompt, get_dialect
from toolweave.dialects.native import reply_text
from toolweave.errors import ToolweaveError
from toolweave.types import Episode, InvalidToolCall, Lang, Reply, Role, Sample, Step, ToolCall, ToolSpec, Turn

EXCHANGES = Path(__file__).parent / "fixtures" / "exchanges"


def tool(name: str, description: str, required: list[str], **parameters: tuple[str, str]) -> ToolSpec:
    properties = {key: {"type": kind, "description": text} for key, (kind, text) in parameters.items()}
    return ToolSpec(name, description, {"type": "object", "properties": properties, "required": required})


# The tools that the recorded agents had.
TOOLS = {
    spec.name: spec
    for spec in (
        tool(
            "amap_weather",
            "获取对应城市的天气数据",
            ["location"],
            location=("string", "城市/区具体名称，如`北京市海淀区`请描述为`海淀区`"),
        ),
        tool(
            "image_gen",
            "AI绘画（图像生成）服务，输入文本描述和图像分辨率，返回根据文本信息绘制的图片URL。",
            ["text", "resolution"],
            text=("string", "详细描述了希望生成的图像具有什么内容，例如人物、环境、动作等细节描述"),
            resolution=(
                "string",
                "格式是 数字*数字，表示希望生成的图像的分辨率大小，选项有[1024*1024, 720*1280, 1280*720]",
            ),
        ),
        tool(
            "stock_price",
            "Get the latest price of a stock",
            ["symbol"],
            symbol=("string", "ticker symbol"),
            days=("integer", "number of days"),
        ),
    )
}


def scenarios() -> list[Any]:
    """Every recorded scenario on the chat path; the raw one records an upstream bug (an empty prompt)."""
    found = []
    for version in ("v06", "v07"):
        recorded = json.loads((EXCHANGES / f"roleplay_{version}.json").read_text("utf-8"))
        for name, scenario in recorded.items():
            if all(request["path"] == "/v1/chat/completions" for request in scenario["requests"]):
                found.append(pytest.param(version, scenario, id=f"{version}-{name}"))
    return found


def test_every_chat_scenario_is_covered() -> None:
    assert len(scenarios()) == 20


@pytest.mark.parametrize(("version", "scenario"), scenarios())
def test_requests_are_byte_identical_to_the_clients(version: str, scenario: dict[str, Any]) -> None:
    dialect, run, agent = get_dialect(version), scenario["run"], scenario["agent"]
    messages = dialect.start(
        Prompt(
            query=run["query"],
            tools=tuple(TOOLS[name] for name in agent["function_list"]),
            instruction=agent["instruction"],
            lang=Lang(run.get("lang", "zh")),
            knowledge=run.get("ref_doc", ""),
            history=tuple(run.get("history", ())),
        )
    )
    requests = [request["body"] for request in scenario["requests"]]
    for number, request in enumerate(requests):
        assert messages == request["messages"]
        assert list(dialect.stop) == request["stop"]
        if number + 1 < len(requests):
            reply = scenario["model_replies"][number]
            (call,) = dialect.parse(reply).calls
            grown = requests[number + 1]["messages"][-1]["content"]
            observation = grown[grown.rindex("<result>") + len("<result>") : grown.rindex("</result>")]
            if isinstance(call, InvalidToolCall):
                assert observation.startswith(f"Tool api {call.name} failed to call. Args: {call.raw}")
            messages = dialect.advance(messages, reply, observation)


def test_the_error_frame_is_upstreams() -> None:
    call = ToolCall("no_such", {})
    text = get_dialect("v06").error_observation(call, "'no_such'" + "x" * 300)
    assert text.startswith("Tool api no_such failed to call. Args: {}.Details: 'no_such'xxx")
    assert len(text.split("Details: ")[1]) == 200


def test_an_unknown_dialect_is_named() -> None:
    with pytest.raises(ToolweaveError, match="unknown dialect 'v99'"):
        get_dialect("v99")


# --- laws --------------------------------------------------------------------------------------------

DIALECTS = st.sampled_from([get_dialect("v06"), get_dialect("v07")])
LANGS = st.sampled_from(list(Lang))
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_\-]{0,15}", fullmatch=True)
# Pieces of the format itself, as a mischievous user writes them, among any text.
TRAPS = st.sampled_from(
    [
        "Observation:", "Observation:\n", "Observation", "Action:", "\nAction: x\nAction Input: {}", "\\", '"', "'",
        "工具调用Action: x Action Input: {}", "工具调用\nAction：x\nAction Input：{}", "Tool Invocation", "Answer: 晴",
        "}", "```", "“朝阳区”", "：，", "👩‍🔬🌧️", "\u2028", "\x00", "<result>", "{location}", "<|im_end|>",
    ]
)  # fmt: skip
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TEXTS = st.lists(TRAPS | ANY_TEXT, max_size=4).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CALLS = st.builds(ToolCall, NAMES, st.dictionaries(TEXTS, VALUES, max_size=4))


@given(DIALECTS, CALLS, LANGS)
def test_a_rendered_call_parses_to_itself(dialect: Dialect, call: ToolCall, lang: Lang) -> None:
    completion = dialect.call_completion(call, lang)
    assert dialect.parse(completion) == Reply("", (call,))
    # The only stop word is the one at the end: a server that honours it cuts there.
    assert dialect.visible(completion) + dialect.stop[0] == completion


@given(DIALECTS, st.lists(CALLS, min_size=2, max_size=4), LANGS)
def test_several_rendered_calls_parse_to_themselves(dialect: Dialect, calls: list[ToolCall], lang: Lang) -> None:
    replies = [dialect.visible(dialect.call_completion(call, lang)) for call in calls]
    assert dialect.parse("".join(replies)).calls == tuple(calls)


OTHERS = st.sampled_from([get_dialect(name) for name in ("v07-parallel", "react", "hermes", "native")])
MANY = st.sampled_from([get_dialect(name) for name in ("v07-parallel", "hermes", "native")])


@given(OTHERS, CALLS, LANGS)
def test_a_call_of_any_dialect_parses_to_itself(dialect: Dialect, call: ToolCall, lang: Lang) -> None:
    completion = dialect.call_completion(call, lang)
    assert dialect.parse(completion) == Reply("", (call,))
    assert dialect.visible(completion) + "".join(dialect.stop[:1]) == completion


@given(MANY, st.lists(CALLS, min_size=1, max_size=4), LANGS)
def test_calls_of_one_reply_parse_to_themselves(dialect: Dialect, calls: list[ToolCall], lang: Lang) -> None:
    assert dialect.calls_per_reply is CallsPerReply.MANY
    assert dialect.parse(dialect.calls_completion(calls, lang)) == Reply("", tuple(calls))


@given(OTHERS, ANY_TEXT)
def test_an_answer_of_any_dialect_parses_to_itself(dialect: Dialect, answer: str) -> None:
    assert dialect.parse(dialect.answer_completion(answer)) == Reply(answer.strip())


@given(OTHERS, st.lists(TRAPS | ANY_TEXT | st.sampled_from(["<tool_call>", '{"name": ', "</tool_call>", "[1]"])))
def test_no_dialect_raises_on_what_a_model_writes(dialect: Dialect, shards: list[str]) -> None:
    for call in dialect.parse("".join(shards)).calls:
        assert isinstance(call, InvalidToolCall) or json.loads(call.arguments_json()) == call.arguments


@given(st.text(), st.lists(st.tuples(NAMES, TEXTS | CALLS.map(ToolCall.arguments_json)), max_size=3))
def test_native_calls_survive_as_text(content: str, calls: list[tuple[str, str]]) -> None:
    content = content.replace("<", "")
    wire = [{"id": f"c{n}", "function": {"name": name, "arguments": text}} for n, (name, text) in enumerate(calls)]
    reply = get_dialect("native").parse(reply_text(content, wire))
    assert reply.text == content.strip()
    assert [(call.name, call.id) for call in reply.calls] == [(name, f"c{n}") for n, (name, _) in enumerate(calls)]
    for call, (_, text) in zip(reply.calls, calls, strict=True):
        if isinstance(call, ToolCall) and call.arguments:
            try:
                assert call.arguments == json.loads(text)
            except ValueError:
                assert text.lstrip()[:1] in "{｛`"  # mended: a Python dict, or text behind the object


@given(DIALECTS, st.text())
def test_parse_never_raises_on_any_text(dialect: Dialect, text: str) -> None:
    dialect.parse(text)


SHARDS = st.sampled_from(["工具调用\nAction: t\nAction Input: ", '{"a": ', "{'a': (1,)}", "{", "[1]"])


@given(DIALECTS, st.lists(TRAPS | SHARDS).map("".join))
def test_parse_never_raises_on_broken_calls(dialect: Dialect, text: str) -> None:
    for call in dialect.parse(text).calls:
        assert isinstance(call, InvalidToolCall) or json.loads(call.arguments_json()) == call.arguments


@pytest.mark.parametrize("filler", [" ", "\t", "*", "`", "\n", "Action: a\n", "工具调用\n", "{", "> "])
def test_parsing_time_is_linear_in_degenerate_replies(filler: str) -> None:
    for opening in ("", "Action:", "Action: a", "Action: a\nAction Input:", 'Action: a\nAction Input: {"a": "'):
        started = time.process_time()
        get_dialect("v06").parse(opening + filler * 10_000)
        assert time.process_time() - started < 2


ROLES = st.builds(Role, name=TEXTS, description=TEXTS, instruction=TEXTS | st.lists(TEXTS, max_size=2))
TURNS = st.builds(Turn, query=TEXTS, steps=st.lists(st.builds(Step, CALLS, TEXTS), max_size=3).map(tuple), answer=TEXTS)
EPISODES = st.builds(
    Episode,
    tools=st.lists(st.sampled_from(list(TOOLS.values())), unique_by=lambda spec: spec.name).map(tuple),
    turns=st.lists(TURNS, min_size=1, max_size=3).map(tuple),
    instruction=TEXTS | ROLES,
    lang=LANGS,
    knowledge=TEXTS,
)


@given(DIALECTS, EPISODES)
def test_an_episode_renders_to_one_sample_a_request(dialect: Dialect, episode: Episode) -> None:
    samples = iter(dialect.render(episode))
    system: set[str] = set()
    for number, turn in enumerate(episode.turns):
        history = [text for past in episode.turns[:number] for text in (past.query, past.answer)]
        expected = ""
        for step in (*turn.steps, None):
            sample = next(samples)
            system.add(sample.messages[0]["content"])
            assert sample.stop == dialect.stop
            assert sample.meta["turn"] == number
            assert [message["content"] for message in sample.messages[1:-1]] == history
            last = sample.messages[-1]
            assert last["role"] == "user"
            # The first request ends with the query, each later one adds a call and its observation to that.
            assert last["content"] == expected if expected else last["content"].endswith(turn.query)
            if step is None:
                assert sample.completion == turn.answer
            else:
                assert dialect.parse(sample.completion).calls == (step.call,)
                written = dialect.visible(sample.completion)
                written = written.rstrip() if dialect.name == "agentfabric-v06" else written
                expected = last["content"] + written + dialect.observation_text(step.observation)
    assert next(samples, None) is None
    assert len(system) == 1


@given(DIALECTS, EPISODES)
def test_samples_survive_json(dialect: Dialect, episode: Episode) -> None:
    for sample in dialect.render(episode):
        assert Sample.from_json(json.loads(json.dumps(sample.to_json()))) == sample


@given(OTHERS, EPISODES)
def test_any_dialect_renders_one_sample_a_reply(dialect: Dialect, episode: Episode) -> None:
    samples = dialect.render(episode)
    assert len(samples) == sum(len(turn.steps) + 1 for turn in episode.turns)
    for sample in samples:
        assert sample.messages[-1]["role"] in ("user", "tool")
        assert Sample.from_json(json.loads(json.dumps(sample.to_json()))) == sample


@pytest.mark.parametrize("name", ["v07-parallel", "hermes", "native"])
def test_steps_made_together_are_one_reply(name: str) -> None:
    calls = (ToolCall("a", {"x": 1}), ToolCall("b", {}))
    steps = tuple(Step(call, f"result {number}", together=number > 0) for number, call in enumerate(calls))
    dialect = get_dialect(name)
    first, last = dialect.render(Episode((), (Turn("?", steps, "!"),)))
    assert dialect.parse(first.completion).calls == calls
    text = "".join(message["content"] for message in last.messages)
    assert text.index("result 0") < text.index("result 1")
    assert len(get_dialect("v07").render(Episode((), (Turn("?", steps, "!"),)))) == 3


WEATHER = ToolCall("amap_weather", {"location": "朝阳区"})

# --- the wire ------------------------------------------------------------------------------------------

PARALLEL_ZH = """工具调用
Action: 工具1的名称，必须是[amap_weather,stock_price]之一
Action Input: 工具1的输入
Action: 工具2的名称，必须是[amap_weather,stock_price]之一
Action Input: 工具2的输入
...
Action: 工具N的名称，必须是[amap_weather,stock_price]之一
Action Input: 工具N的输入
Observation: <result>工具1返回的结果</result>
Observation: <result>工具2返回的结果</result>
...
Observation: <result>工具N返回的结果</result>

Answer: 根据Observation总结本次工具调用返回的结果

"""
TWO = (TOOLS["amap_weather"], TOOLS["stock_price"])


def test_the_parallel_prompt_is_client_07s() -> None:
    dialect = get_dialect("v07-parallel")
    system, user = dialect.start(Prompt("天气？", TWO, "r"))
    plain, plain_user = get_dialect("v07").start(Prompt("天气？", TWO, "r"))
    head, _, tail = plain["content"].partition("工具调用\nAction: ")
    assert system["content"] == head + PARALLEL_ZH + tail[tail.index("\n# 指令") :]
    assert user == plain_user
    said = "Action: a\nAction Input: {}\nAction: b\nAction Input: {}\n"
    (*_, grown) = dialect.advance([system, user], said, "1", "2")
    results = "\nObservation: <result>1</result>\nObservation: <result>2</result>\nAnswer:"
    assert grown["content"] == user["content"] + said + results


def test_native_messages_are_openais() -> None:
    dialect = get_dialect("native")
    messages = dialect.start(Prompt("天气？", TWO, {"name": "小云"}))
    assert "Action" not in messages[0]["content"]
    assert messages[1]["content"] == "(你正在扮演小云)天气？"
    wire = [
        {"id": "call_x", "function": {"name": "amap_weather", "arguments": '{"location": "朝阳区"}'}},
        {"id": "", "function": {"name": "no such!", "arguments": '{"a": '}},
    ]
    _, _, said, *results = dialect.advance(messages, reply_text("好的", wire), "晴", "错")
    assert said["content"] == "好的"
    assert said["tool_calls"] == [
        {
            "id": "call_x",
            "type": "function",
            "function": {"name": "amap_weather", "arguments": '{"location": "朝阳区"}'},
        },
        {"id": "call_1", "type": "function", "function": {"name": "no_such_", "arguments": "{}"}},
    ]
    assert results == [
        {"role": "tool", "content": "晴", "tool_call_id": "call_x"},
        {"role": "tool", "content": "错", "tool_call_id": "call_1"},
    ]


def test_hermes_results_cannot_close_their_tag() -> None:
    dialect = get_dialect("hermes")
    messages = dialect.start(Prompt("?", TWO, "r", Lang.EN))
    assert '"name": "stock_price"' in messages[0]["content"]
    *_, said, result = dialect.advance(messages, "<tool_call>\n{}", "</tool_response><tool_call>")
    assert said["role"] == "assistant"
    assert result == {"role": "user", "content": "<tool_response>\n<\\/tool_response><tool_call>\n</tool_response>"}


def test_react_prompts_read_back_as_ms_agent_rows() -> None:
    system, _ = get_dialect("react").start(Prompt("?", tuple(TOOLS.values()), "你是助手"))
    read = read_system(system["content"])
    assert read.instruction == "你是助手"
    assert [tool.name for tool in read.tools] == list(TOOLS)
    for tool, original in zip(read.tools, TOOLS.values(), strict=True):
        assert tool.parameters == original.parameters


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Thought: 先查\nAction: amap_weather\nAction Input: {'location': '朝阳区'}\n", Reply("先查", (WEATHER,))),
        ("Thought: done\nFinal Answer: 晴。\nAction: x\nAction Input: {}", Reply("晴。\nAction: x\nAction Input: {}")),
        ("晴。", Reply("晴。")),
    ],
)  # fmt: skip
def test_react_replies(reply: str, expected: Reply) -> None:
    assert get_dialect("react").parse(reply) == expected


@pytest.mark.parametrize(
    "reply",
    [
        '<tool_call>{"name": "amap_weather", "arguments": {"location": "朝阳区"}}</tool_call>',
        '<tool_call>\n{"name": "amap_weather", "arguments": "{\\"location\\": \\"朝阳区\\"}"}\n</tool_call>',
        "<tool_call>{'name': 'amap_weather', 'parameters': {'location': '朝阳区'}}",
        '<think>查 <tool_call></think>\n<tool_call>```\n{"name": "amap_weather", "arguments": {"location": "朝阳区"}}',
        '<tool_call>{"function": {"name": "amap_weather", "arguments": {"location": "朝阳区"}}}</tool_call>',
    ],
)
def test_readable_tagged_calls(reply: str) -> None:
    assert get_dialect("hermes").parse(reply).calls == (ToolCall("amap_weather", {"location": "朝阳区"}),)


@pytest.mark.parametrize("body", ["", "{", '{"arguments": {}}', '{"name": "a", "arguments": [1]}', '{"name": 1}'])
def test_unreadable_tagged_calls_are_values(body: str) -> None:
    good = '<tool_call>{"name": "a", "arguments": {}}</tool_call>'
    bad, fine = get_dialect("hermes").parse(f"<tool_call>{body}</tool_call>{good}").calls
    assert isinstance(bad, InvalidToolCall)
    assert fine == ToolCall("a", {})


# --- what small models write -------------------------------------------------------------------------

READABLE = {
    "multi-line JSON": 'Action: amap_weather\nAction Input: {\n  "location": "朝阳区"\n}\n',
    "arguments on the next line": 'Action: amap_weather\nAction Input:\n{"location": "朝阳区"}',
    "text after the arguments": 'Action: amap_weather\nAction Input: {"location": "朝阳区"} 好的，我来查一下。',
    "an invented answer": 'Action: amap_weather\nAction Input: {"location": "朝阳区"}\nAnswer: 朝阳区晴，30度。',
    "an invented result": 'Action: amap_weather\nAction Input: {"location": "朝阳区"}\nObservation: <result>晴',
    "Chinese colons": 'Action：amap_weather\nAction Input：{"location"："朝阳区"}',
    "Chinese quotes": "Action: amap_weather\nAction Input: {“location”: “朝阳区”}",
    "single quotes": "Action: amap_weather\nAction Input: {'location': '朝阳区'}",
    "a code fence": 'Action: amap_weather\nAction Input: ```json\n{"location": "朝阳区"}\n```',
    "a bare fence": 'Action: amap_weather\nAction Input:\n```\n{"location": "朝阳区"}\n```\n',
    "bold markers": '**Action:** `amap_weather`\n**Action Input:** {"location": "朝阳区"}',
    "one line": 'Action: amap_weather Action Input: {"location": "朝阳区"}',
    "no blanks": 'Action:amap_weather\nAction Input:{"location":"朝阳区"}',
    "the call word before": '工具调用\nAction: amap_weather\nAction Input: {"location": "朝阳区"}\n',
    "the English call word": 'Tool Invocation\nAction: amap_weather\nAction Input: {"location": "朝阳区"}\n',
    "a blank line between": 'Action: amap_weather\n\nAction Input: {"location": "朝阳区"}',
}


@pytest.mark.parametrize("version", ["v06", "v07"])
@pytest.mark.parametrize("reply", READABLE.values(), ids=READABLE)
def test_readable_calls(version: str, reply: str) -> None:
    assert get_dialect(version).parse(reply) == Reply("", (WEATHER,))


def parse(reply: str) -> Reply:
    return get_dialect("v06").parse(reply)


def test_text_before_a_call_is_kept() -> None:
    reply = parse('好的，马上查。工具调用\nAction: amap_weather\nAction Input: {"location": "朝阳区"}\n')
    assert reply == Reply("好的，马上查。", (WEATHER,))


def test_several_calls_are_all_read_in_order() -> None:
    block = 'Action: amap_weather\nAction Input: {"location": "朝阳区"}\n'
    second = "Action: image_gen\nAction Input: {'text': '雨', 'n': 1}\n"
    assert parse(block + second).calls == (WEATHER, ToolCall("image_gen", {"text": "雨", "n": 1}))


def test_a_broken_call_does_not_hide_the_next() -> None:
    broken, good = parse(
        'Action: image_gen\nAction Input: {"text": "雨\n'
        '工具调用\nAction: amap_weather\nAction Input: {"location": "朝阳区"}'
    ).calls
    assert isinstance(broken, InvalidToolCall)
    assert broken.raw == '{"text": "雨'
    assert good == WEATHER


def test_a_call_inside_an_argument_is_text() -> None:
    note = "工具调用Action: image_gen Action Input: {}"
    (call,) = parse(f'Action: note\nAction Input: {{"text": "{note}"}}').calls
    assert call == ToolCall("note", {"text": note})


BROKEN = ('{"location": "朝阳', '{"location": ', "{", "朝阳区", "[1, 2]", "{1: 2}", "{'a': {1}}")


@pytest.mark.parametrize("arguments", BROKEN)
def test_unreadable_arguments_keep_their_raw_text(arguments: str) -> None:
    (call,) = parse(f"Action: amap_weather\nAction Input: {arguments}").calls
    assert isinstance(call, InvalidToolCall)
    assert (call.name, call.raw) == ("amap_weather", arguments.strip())
    assert call.reason


def test_a_python_tuple_becomes_a_list() -> None:
    (call,) = parse("Action: a\nAction Input: {'size': (1, 2), 'on': True}").calls
    assert call == ToolCall("a", {"size": [1, 2], "on": True})


@pytest.mark.parametrize("arguments", ["", "{}", "``` ```"])
def test_a_call_without_arguments(arguments: str) -> None:
    assert parse(f"Action: now\nAction Input: {arguments}").calls == (ToolCall("now", {}),)


@pytest.mark.parametrize(
    "prose",
    [
        "朝阳区今天晴，12度。",
        "I would write Action: and then Action Input: to call a tool.",
        "Action: is what opens a call.",
        "Action: amap_weather",
        '{"location": "朝阳区"}',
        "Action Input: 工具的输入",
        "工具调用需要写 Action: 和 Action Input: 两行。",
        "",
    ],
)
def test_prose_is_no_call(prose: str) -> None:
    assert parse(prose) == Reply(prose, ())
