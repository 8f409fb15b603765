"""Tools over the OpenAI API: prompts by the dialect, calls out of replies, and calls that cannot go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import rjieba
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llguidance.hf import from_tokenizer

from scripted_engine import TEMPLATE, ScriptedEngine, served
from toolweave.dialects import CallsPerReply, Prompt, get_dialect
from toolweave.serving.calls import CallStream, ReplyDelta, call_arguments
from toolweave.serving.conversation import dialect_messages, tools_in_text
from toolweave.serving.grammar import CallFrame, call_grammar
from toolweave.serving.guide import Guide, Guides
from toolweave.serving.protocol import ChatMessage
from toolweave.serving.quoting import HEAD_START, Quoting, Vocabulary
from toolweave.types import InvalidToolCall, Lang, ToolCall, ToolSpec

WEATHER = ToolSpec(
    "amap_weather",
    "获取对应城市的天气数据",
    {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
)
DRAW = ToolSpec(
    "image_gen",
    "画图",
    {
        "type": "object",
        "properties": {"size": {"enum": ["720*1280", "1280*720"]}, "count": {"type": "integer", "maximum": 9}},
        "required": ["size", "count"],
    },
)
TOOLS = [WEATHER.openai(), DRAW.openai()]
CALL = '工具调用\nAction: amap_weather\nAction Input: {"location": "海淀区"}\nObservation:'
REPLIES = {
    "Observation: <result>晴": "海淀区今天晴。",
    "Observation: <result>海淀区：晴": "海淀区今天晴。",
    "下雨": f"我来查一下。\n{CALL} 12",
    "坏的": "Action: image_gen\nAction Input: {size: oops\nObservation:",
    "引号": "Action: image_gen\nAction Input: {'size': '720*1280', 'count': 1}\nObservation:",
    "乱叫": "好的。\nAction:",
    "好长": f'Action: image_gen\nAction Input: {{"a": "{"a" * 100}"}}\nObservation:',
    "你好": "你好！有什么 Action: 可以帮你？",
}


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine(REPLIES)


@pytest.fixture(scope="module")
def url(engine: ScriptedEngine) -> Iterator[str]:
    with served(engine, dialect="v06") as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(query: str) -> list[Any]:
    return [{"role": "system", "content": "你是天气助手。"}, {"role": "user", "content": query}]


def create(client: openai.OpenAI, query: str, **options: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=ask(query), temperature=0, **options)


# --- requests ---------------------------------------------------------------------------------------------------


def test_the_dialect_writes_the_prompt(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    create(client, "下雨", tools=TOOLS)
    dialect = get_dialect("v06")
    prompt = Prompt("下雨", (WEATHER, DRAW), "你是天气助手。", Lang.ZH)
    assert engine.prompts[-1] == TEMPLATE.tokenizer.decode(TEMPLATE.prompt_ids(dialect.start(prompt)))


@pytest.mark.parametrize("version", ["v06", "v07"])
def test_requests_are_those_of_the_recorded_client(version: str) -> None:
    """The OpenAI form of a recorded visit gives, message by message, what the real client sent."""
    path = Path(__file__).parent / "fixtures" / "exchanges" / f"roleplay_{version}.json"
    recorded = json.loads(path.read_text("utf-8"))["zh_one_call"]
    first, second = (request["body"]["messages"] for request in recorded["requests"])
    tools = tools_in_text([ChatMessage(**message) for message in first])
    assert [tool.name for tool in tools] == recorded["agent"]["function_list"]
    dialect = get_dialect(version)
    asked = [
        ChatMessage(role="system", content=recorded["agent"]["instruction"]),
        ChatMessage(role="user", content=recorded["run"]["query"]),
    ]
    assert dialect_messages(dialect, asked, tools, Lang.ZH) == first
    call, observation = {"name": "amap_weather", "arguments": '{"location": "朝阳区"}'}, "朝阳区的天气是晴温度是12度。"
    trace = [
        ChatMessage.model_validate({"role": "assistant", "tool_calls": [{"id": "1", "function": call}]}),
        ChatMessage(role="tool", tool_call_id="1", content=observation),
    ]
    assert dialect_messages(dialect, [*asked, *trace], tools, Lang.ZH) == second


@pytest.mark.parametrize("key", ["tool_call_id", "id"])  # OpenAI's name, and Qwen-Agent's
def test_a_whole_turn(client: openai.OpenAI, key: str) -> None:
    first = create(client, "下雨", tools=TOOLS).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.content == "我来查一下。"
    (call,) = first.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("amap_weather", '{"location": "海淀区"}')
    result = {"role": "tool", key: call.id, "content": "晴"}
    messages = [*ask("下雨"), first.message.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, temperature=0).choices[0]
    assert (second.message.content, second.finish_reason) == ("海淀区今天晴。", "stop")
    assert second.message.tool_calls is None


def test_qwen_agent_makes_a_visit(url: str) -> None:
    script = Path(__file__).with_name("qwen_agent_visit.py")
    done = subprocess.run(
        [sys.executable, str(script), f"{url}/v1", "会下雨吗？"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told, call, result, answer = json.loads(done.stdout.splitlines()[-1])
    assert told["content"] == "我来查一下。"
    assert json.loads(call["function_call"]["arguments"]) == {"location": "海淀区"}
    assert result["content"] == "海淀区：晴"
    assert answer["content"] == "海淀区今天晴。"


def test_calls_come_in_parts(client: openai.OpenAI) -> None:
    content, name, arguments, finish, ids = "", "", [], None, []
    for chunk in create(client, "下雨", tools=TOOLS, stream=True):
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        finish = choice.finish_reason or finish
        for call in choice.delta.tool_calls or ():
            assert call.index == 0
            ids += [call.id] if call.id else []
            name += call.function.name or ""
            arguments.append(call.function.arguments)
    assert (content, name, finish, len(ids)) == ("我来查一下。", "amap_weather", "tool_calls", 1)
    assert "".join(arguments) == '{"location": "海淀区"}'
    assert len(arguments) > 1


def test_without_tools_the_reply_is_left_alone(client: openai.OpenAI) -> None:
    reply = create(client, "下雨", stop=["Observation:"]).choices[0]
    assert reply.message.content == REPLIES["下雨"].split("Observation:")[0]
    assert (reply.message.tool_calls, reply.finish_reason) == (None, "stop")
    streamed = create(client, "下雨", stop=["Observation:"], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == reply.message.content


def test_malformed_calls_come_as_they_are_and_forgiving_ones_as_json(client: openai.OpenAI) -> None:
    free = {"guided_calls": False}
    bad = create(client, "坏的", tools=TOOLS, extra_body=free).choices[0].message.tool_calls[0].function
    assert (bad.name, bad.arguments) == ("image_gen", "{size: oops")
    loose = create(client, "引号", tools=TOOLS, extra_body=free).choices[0].message.tool_calls[0].function
    assert json.loads(loose.arguments) == {"size": "720*1280", "count": 1}


def test_prose_with_a_marker_is_no_call(client: openai.OpenAI) -> None:
    reply = create(client, "你好", tools=TOOLS).choices[0]
    assert (reply.message.content, reply.finish_reason) == (REPLIES["你好"], "stop")


def test_tool_choice(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    free = create(client, "下雨", tools=TOOLS, tool_choice="none").choices[0]
    assert free.message.tool_calls is None
    assert "amap_weather" not in engine.prompts[-1]
    named = {"type": "function", "function": {"name": "image_gen"}}
    for choice in ("required", named):
        reply = create(client, "随便", tools=[DRAW.openai()], tool_choice=choice).choices[0]
        (call,) = reply.message.tool_calls
        assert (call.function.name, reply.finish_reason) == ("image_gen", "tool_calls")
        Draft202012Validator(DRAW.parameters).validate(json.loads(call.function.arguments))
    with pytest.raises(openai.BadRequestError, match="tool_choice: no_such"):
        create(client, "x", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "no_such"}})
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        create(client, "x", tool_choice="required")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ([{"role": "tool", "tool_call_id": "9", "content": "x"}], "no call has the tool_call_id '9'"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}], "not JSON"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "[]"}}]}], "not a JSON object"),
    ],
)
def test_traces_that_make_no_sense_are_refused(url: str, change: list[Any], says: str) -> None:
    reply = httpx.post(f"{url}/v1/chat/completions", json={"messages": [*ask("下雨"), *change], "tools": TOOLS})
    assert reply.status_code == 400
    assert says in reply.json()["error"]["message"]


# --- guided calls -----------------------------------------------------------------------------------------------


def test_a_call_that_began_can_only_become_a_valid_one(client: openai.OpenAI) -> None:
    """A random model that was led into `Action:` writes a call of an offered tool with arguments that it takes."""
    for seed in range(8):
        options: Any = {"tools": [DRAW.openai()], "seed": seed}
        reply = client.chat.completions.create(model="tiny", messages=ask("乱叫"), temperature=1, **options).choices[0]
        (call,) = reply.message.tool_calls
        assert (call.function.name, reply.message.content) == ("image_gen", "好的。")
        Draft202012Validator(DRAW.parameters).validate(json.loads(call.function.arguments))


NOTE = ToolSpec(
    "note",
    "记事",
    {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "comment": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "place": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "code": {"type": "string", "pattern": "^[A-Z]{3}$"}},
                "required": ["city", "code"],
            },
            "size": {"enum": ["720*1280", "1280*720"]},
            "hours": {"type": "number"},
        },
        "required": ["text", "tags", "place", "size", "hours"],
    },
)


@pytest.mark.parametrize("seed", range(6))
def test_a_call_is_closed_before_its_tokens_run_out(client: openai.OpenAI, seed: int) -> None:
    """A random model never ends a string by itself; one token is one byte here, and the shortest call has 129."""
    options: Any = {"tools": [NOTE.openai()], "tool_choice": "required", "temperature": 1, "seed": seed}
    reply = client.chat.completions.create(model="tiny", messages=ask("随便"), max_tokens=180 + 60 * seed, **options)
    (call,) = reply.choices[0].message.tool_calls
    Draft202012Validator(NOTE.parameters).validate(json.loads(call.function.arguments))


def test_apps_that_write_their_own_tools_are_guided(client: openai.OpenAI) -> None:
    dialect = get_dialect("v06")
    messages: Any = dialect.start(Prompt("乱叫", (DRAW,), "", Lang.ZH))
    for guided in (None, True, [DRAW.openai()]):
        reply = client.chat.completions.create(
            model="tiny", messages=messages, temperature=0, stop=list(dialect.stop), extra_body={"guided_calls": guided}
        ).choices[0]
        (call,) = dialect.parse(reply.message.content or "").calls
        assert isinstance(call, ToolCall)
        assert call.name == "image_gen"
        Draft202012Validator(DRAW.parameters).validate(call.arguments)
        assert reply.finish_reason == "stop"
        assert (reply.message.content or "").endswith("}\n")


def test_free_text_stays_free(client: openai.OpenAI) -> None:
    reply = create(client, "下雨", tools=TOOLS).choices[0]
    assert reply.message.content == "我来查一下。"
    assert reply.message.tool_calls[0].function.arguments == '{"location": "海淀区"}'


def test_response_format(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2]}},
        "required": ["ok", "n"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**schema, "additionalProperties": False}}}
    reply = create(client, "json", response_format=wanted, max_tokens=60).choices[0]
    Draft202012Validator(schema).validate(json.loads(reply.message.content))
    assert reply.finish_reason == "stop"
    with pytest.raises(openai.BadRequestError, match="response_format"):
        create(client, "json", response_format=wanted, tools=TOOLS)
    with pytest.raises(openai.BadRequestError, match="json_schema is missing"):
        create(client, "json", response_format={"type": "json_schema"})


@pytest.mark.parametrize(
    ("query", "parameters", "arguments", "why"),
    [
        ("坏的", {"type": "array"}, "{size: oops", "not of an object"),
        # Its automaton grows with every character, and too large after some seventy.
        (
            "好长",
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a{1,500}){1,50}$"}}},
            json.dumps({"a": "a" * 100}),
            "too many expressions",
        ),
    ],
)
def test_a_schema_that_cannot_be_followed_leaves_the_reply_free(
    client: openai.OpenAI, query: str, parameters: Any, arguments: str, why: str
) -> None:
    """Unless the request itself asked for limits."""
    tool = {"type": "function", "function": {"name": "image_gen", "parameters": parameters}}
    reply = create(client, query, tools=[tool]).choices[0].message.tool_calls[0].function
    assert (reply.name, reply.arguments) == ("image_gen", arguments)
    with pytest.raises(openai.APIStatusError, match=why):
        create(client, query, tools=[tool], extra_body={"guided_calls": True})


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/secret"}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+(b+)+c{1000,9000}"}}},
        {"type": "object", "properties": {"a": {"type": "nonsense"}}},
        {"type": "array"},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 9}}},
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(4000)}},
        {"type": "object", "x-guidance": {"whitespace_pattern": "("}},
    ],
)
def test_hostile_schemas_are_refused_or_followed(client: openai.OpenAI, url: str, parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "t", "parameters": parameters}}
    body = {"messages": ask("乱叫"), "tools": [tool], "tool_choice": "required", "max_tokens": 5}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code in (200, 400), reply.text
    assert create(client, "你好").choices[0].message.content == REPLIES["你好"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["object", "string", "a", "", "#", "(", "安"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "a", "items", "enum", "pattern", "$ref", "anyOf", "required"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(JSON, st.sampled_from(["parameters", "schema", "tools", "messages", "guided_calls", "tool_choice", "body"]))
def test_no_request_is_a_server_error(url: str, value: Any, where: str) -> None:
    body: Any = {"messages": ask("你好"), "max_tokens": 3}
    if where == "parameters":
        body |= {"tools": [{"type": "function", "function": {"name": "t", "parameters": value}}]}
        body |= {"tool_choice": "required"}
    elif where == "schema":
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
    elif where == "body":
        body = value
    else:
        body[where] = value
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code in (200, 400), reply.text


# --- calls out of text ------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *(
            "你好。",
            "Action",
            "Action: ",
            "Action:",
            "amap_weather",
            "\nAction Input: ",
            "工具调用",
            "Tool Invocation\n",
        ),
        *("{}", '{"a": "b: {}"}', "{'a': 1}", "{", '{"location": "海淀\\n区"}', "\n", "  ", "**", "\nx"),
        *("I use Action: no\n", "Tool Invocation\n"),
        *("<tool_call>", '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "</tool_call>", "<think>"),
        *("</think>", '"arguments": ', "Thought: ", "Final Answer: ", "<"),
    ]
)


def joined(deltas: list[ReplyDelta]) -> tuple[str, list[list[str]]]:
    calls: list[list[str]] = []
    for delta in deltas:
        for part in delta.calls:
            if part.name is not None:
                assert part.index == len(calls)
                calls.append([part.name, ""])
            calls[part.index][1] += part.arguments
    return "".join(delta.content for delta in deltas), calls


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=12), st.sampled_from(["v06", "v07", "v07-parallel", "react", "hermes", "native"]))
@example(["Thought: ", "\nAction Input: "], "react")
def test_what_is_streamed_is_what_the_parser_reads(pieces: list[str], name: str) -> None:
    dialect = get_dialect(name)
    text = "".join(pieces)
    parsed = dialect.parse(text)
    named = [call for call in parsed.calls if call.name]
    for cut in (1, len(text) or 1):
        stream = CallStream(dialect)
        deltas = [stream.push(text[at : at + cut]) for at in range(0, len(text), cut)]
        content, calls = joined([*deltas, stream.finish()])
        assert [name for name, _ in calls] == [call.name for call in named]
        assert content == (parsed.text if named or not parsed.calls else text.strip())
        for (_, arguments), call in zip(calls, named, strict=True):
            same = arguments == call_arguments(call)
            # Out of tags the model's own spelling may go out, and the parser's at the end.
            assert same or (name in ("hermes", "native") and json.loads(arguments) == call.arguments)
        assert stream.called == bool(calls)


def test_long_prose_after_a_marker_is_not_held_back() -> None:
    stream = CallStream(get_dialect("v06"))
    sent = "".join(stream.push(char).content for char in "Action\n" + "这是一段很长的话。" * 100)
    assert len(sent) > 500


@pytest.mark.parametrize("name", ["v06", "v07-parallel", "react", "hermes", "native"])
def test_the_frame_is_cut_out_of_what_the_dialect_writes(name: str) -> None:
    dialect = get_dialect(name)
    for lang in Lang:
        frame = CallFrame.of(dialect, lang)
        call = ToolCall("f", {"a": "b"})
        one = "f" + frame.middle + call.arguments_json()
        assert frame.head + one + frame.tail == dialect.visible(dialect.call_completion(call, lang))
        assert frame.trigger == ("<tool_call>" if name in ("hermes", "native") else "Action:")
        if dialect.calls_per_reply is CallsPerReply.MANY:
            two = dialect.visible(dialect.calls_completion([call, call], lang))
            assert frame.head + one + frame.between + one + frame.tail == two


@pytest.mark.parametrize("marker", ["Action:", "Action：", "Action :", "**Action:"])
def test_every_marker_that_the_parser_knows_begins_a_guided_call(marker: str) -> None:
    dialect = get_dialect("v06")
    tokenizer = TEMPLATE.tokenizer
    guides = Guides(tokenizer, len(tokenizer), [TEMPLATE.end_id])
    grammar = call_grammar(CallFrame.of(dialect, Lang.ZH), [WEATHER], forced=False)

    def follows(text: str) -> bool:
        guide = guides.start(grammar)
        for token in tokenizer(text)["input_ids"]:
            if guide.limit(torch.zeros(len(tokenizer)), left=1000)[token] != 0:
                return False
            guide.accept(token)
        return True

    written = dialect.parse(f"{marker} dalle\nAction Input: {{}}")
    assert written.calls
    assert follows(f"好\n{marker} amap_weather\nAction Input: ")
    assert not follows(f"好\n{marker} dalle")
    assert follows(f"好 {marker.strip('*')} dalle")
    assert not isinstance(written.calls[0], InvalidToolCall)


# --- quoting ----------------------------------------------------------------------------------------------------

SAID = "出体育馆北停车场的时候，看看 New York 的天气"
SIZE = len(TEMPLATE.tokenizer)
GUIDES = Guides(TEMPLATE.tokenizer, SIZE, [TEMPLATE.end_id])
VOCABULARY = Vocabulary(from_tokenizer(TEMPLATE.tokenizer, n_vocab=SIZE, eos_token=[TEMPLATE.end_id]))


def led(guide: Guide, logits: torch.Tensor, most: int = 200) -> bytes:
    """Return what a model that always has these logits says greedily."""
    written = bytearray()
    while not guide.done and len(written) < most:
        token = int(guide.limit(logits, left=1000).argmax())
        guide.accept(token)
        written += VOCABULARY.texts[token]
    return bytes(written)


def call_of(text: str) -> ToolCall:
    (call,) = get_dialect("v06").parse(text).calls
    assert isinstance(call, ToolCall)
    return call


def test_a_model_that_knows_no_better_quotes_whole_words() -> None:
    """Without logits of its own it takes what comes first among equals, so only the head start leads it."""
    grammar = call_grammar(CallFrame.of(get_dialect("v06"), Lang.ZH), [WEATHER], forced=True)
    call = call_of(led(GUIDES.start(grammar, [SAID]), torch.zeros(SIZE)).decode())
    assert call.arguments["location"] in rjieba.cut(SAID)


def test_a_model_that_is_sure_is_not_led() -> None:
    grammar = call_grammar(CallFrame.of(get_dialect("v06"), Lang.ZH), [WEATHER], forced=True)
    logits = torch.zeros(SIZE)
    logits[VOCABULARY.tokens[b"Z"]] = HEAD_START + 0.1
    text = led(GUIDES.start(grammar, [SAID]), logits)
    assert b'"location": "' + b"Z" * 40 in text


def test_only_free_text_in_a_call_leans_towards_what_was_said() -> None:
    guide = GUIDES.start(call_grammar(CallFrame.of(get_dialect("v06"), Lang.ZH), [DRAW, WEATHER], forced=False), [SAID])
    text = '好\nAction: image_gen\nAction Input: {"size": "720*1280", "count": 1}'
    for token in TEMPLATE.tokenizer(text)["input_ids"]:
        assert guide.limit(torch.zeros(SIZE), left=1000).max() == 0
        guide.accept(token)


PIECES = ["安", "今天", "Oslo", "St. Anne's", " ", "\n", "😀", "10:30", '"', "\\"]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join), st.data())
def test_tokens_that_go_on_as_the_words_do_are_preferred(said: str, data: st.DataObject) -> None:
    """From the start of a word, byte by byte; the text may end where a word does."""
    words = rjieba.cut(said)
    first = data.draw(st.sampled_from([at for at, word in enumerate(words) if not word.isspace()] or [0]))
    source = "".join(words[first:]).encode()
    quoting = Quoting(VOCABULARY, [said])
    ends = set(accumulate(len(word.encode()) for word in words[first:]))
    for at, byte in enumerate(source):
        preferred = {VOCABULARY.texts[token] for token in quoting.preferred()}
        if bytes([byte]) in (b'"', b"\\") or source[:1].isspace():
            return
        assert bytes([byte]) in preferred
        assert at not in ends or b'"' in preferred
        assert at > 0 or b'"' not in preferred
        quoting.push(VOCABULARY.tokens[bytes([byte])])
