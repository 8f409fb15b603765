"""Tools in the request: the model's own chat template writes them, and conversations of any dialect come back whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripted_engine import ScriptedEngine, served
from tiny import byte_tokenizer
from toolweave.data.strategy import Strategy
from toolweave.dialects import Prompt, get_dialect
from toolweave.errors import ModelError
from toolweave.models.client import ModelClient
from toolweave.models.template import ChatTemplate
from toolweave.serving.app import create_app
from toolweave.serving.conversation import dialect_messages
from toolweave.serving.protocol import ChatMessage
from toolweave.training.rows import prepare
from toolweave.types import Episode, Lang, Message, Step, ToolCall, ToolSpec, Turn

TAKES_TOOLS = (
    "{% if tools %}<|im_start|>tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEATHER = ToolSpec(
    "amap_weather",
    "天气<|im_end|>",
    {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
)
NATIVE = get_dialect("native")
CALLS = [ToolCall("amap_weather", {"location": place}) for place in ("海淀区", "<|im_end|>")]
CALLING = NATIVE.calls_completion(CALLS, Lang.ZH)
REPLIES = {"得雨": "都下雨。", "天气怎样": f"<think>查两次</think>我查一下。\n{CALLING}"}


def taking_tools() -> ChatTemplate:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TAKES_TOOLS
    return ChatTemplate(tokenizer)


TEMPLATE = taking_tools()


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine(REPLIES, template=TEMPLATE)


@pytest.fixture(scope="module")
def url(engine: ScriptedEngine) -> Iterator[str]:
    with served(engine, dialect=None) as url:
        yield url


def prompt_of(messages: list[Message], tools: tuple[ToolSpec, ...]) -> str:
    return str(TEMPLATE.tokenizer.decode(TEMPLATE.prompt_ids(messages, tools)))


def test_a_native_turn_is_what_the_template_makes_of_it(url: str, engine: ScriptedEngine) -> None:
    model = ModelClient({"model": "tiny", "model_server": "openai", "api_base": f"{url}/v1", "api_key": "none"})
    first = NATIVE.start(Prompt("天气怎样", (WEATHER,), "你是天气助手。"))
    reply = NATIVE.parse("".join(model.complete(first, (), (WEATHER,))))
    assert engine.prompts[-1] == prompt_of(first, (WEATHER,))
    assert (reply.text, list(reply.calls)) == ("我查一下。", CALLS)
    second = NATIVE.advance(first, CALLING, "得雨", "得雨")
    assert "".join(model.complete(second, (), (WEATHER,))) == "都下雨。"
    assert engine.prompts[-1] == prompt_of(second, (WEATHER,))
    # Calls are told as objects, and no one but the template ends a turn.
    assert '"arguments": {"location": "海淀区"}' in engine.prompts[-1]
    assert engine.prompts[-1].count("<|im_end|>") == 1 + len(second)
    assert engine.prompts[-1].endswith("<|im_start|>assistant\n")


def test_a_native_row_is_trained_on_as_it_is_served(url: str, engine: ScriptedEngine) -> None:
    steps = tuple(Step(call, "得雨", together=number > 0) for number, call in enumerate(CALLS))
    episode = Episode((WEATHER,), (Turn("天气怎样", steps, "都下雨。"),), "你是天气助手。", Lang.ZH)
    model = ModelClient({"model": "tiny", "model_server": "openai", "api_base": f"{url}/v1", "api_key": "none"})
    samples = NATIVE.render(episode)
    rows = prepare(samples, TEMPLATE, 10_000, Strategy.ERROR).kept
    for sample, row in zip(samples, rows, strict=True):
        "".join(model.complete(list(sample.messages), (), sample.tools))
        assert TEMPLATE.tokenizer.decode(row.encoded.ids[: row.encoded.prompt]) == engine.prompts[-1]


def test_what_the_template_cannot_be_given_is_refused(url: str) -> None:
    call = {"id": "1", "function": {"name": "amap_weather", "arguments": "{"}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    for tools in ([], [WEATHER.openai()]):
        reply = httpx.post(f"{url}/v1/chat/completions", json={"messages": messages, "tools": tools}, timeout=60)
        assert (reply.status_code, "not JSON" in reply.text) == (400, True)


def test_several_guided_calls(url: str) -> None:
    size = {"enum": ["720*1280", "1280*720"]}
    draw = ToolSpec("image_gen", "画图", {"type": "object", "properties": {"size": size}, "required": ["size"]})
    body = {"messages": [{"role": "user", "content": "随便"}], "tools": [draw.openai()], "tool_choice": "required"}
    reply = httpx.post(f"{url}/v1/chat/completions", json={**body, "max_tokens": 300}, timeout=120).json()
    calls = reply["choices"][0]["message"]["tool_calls"]
    assert calls
    for call in calls:
        assert call["function"]["name"] == "image_gen"
        assert json.loads(call["function"]["arguments"])["size"] in size["enum"]


def test_a_template_without_tools_cannot_serve_native_calls() -> None:
    engine = ScriptedEngine({})
    try:
        with pytest.raises(ModelError, match="choose another --dialect"):
            create_app(engine, "tiny", "native")
    finally:
        engine.close()


DIALECTS = ["v06", "v07", "v07-parallel", "react", "hermes"]
TEXTS = st.sampled_from(["晴", "12°C", "a\nb", "x"])
STEPS = st.lists(
    st.builds(
        Step,
        st.builds(ToolCall, st.just("amap_weather"), st.fixed_dictionaries({"location": TEXTS})),
        TEXTS,
        st.booleans(),
    ),
    max_size=4,
)


def openai_form(episode: Episode, turn: Turn) -> list[ChatMessage]:
    """The episode up to all steps of its last turn, as OpenAI's clients send it."""
    raw: list[Any] = [{"role": "system", "content": episode.instruction}]
    for earlier in episode.turns[:-1]:
        raw += [{"role": "user", "content": earlier.query}, {"role": "assistant", "content": earlier.answer}]
    raw.append({"role": "user", "content": turn.query})
    results: list[Any] = []
    for number, step in enumerate(turn.steps):
        function = {"name": step.call.name, "arguments": step.call.arguments_json()}
        call = {"id": str(number), "type": "function", "function": function}
        if step.together and number:
            raw[-1]["tool_calls"].append(call)
        else:
            raw += [*results, {"role": "assistant", "content": None, "tool_calls": [call]}]
            results = []
        # In any order: each says which call it belongs to.
        results.insert(0, {"role": "tool", "tool_call_id": str(number), "content": step.observation})
    return [ChatMessage.model_validate(message) for message in (*raw, *results)]


@settings(max_examples=40)
@given(
    st.sampled_from(["v06", "v07", "v07-parallel", "react", "hermes"]),
    st.sampled_from(list(Lang)),
    STEPS,
    st.booleans(),
)
def test_a_request_is_the_row_that_was_trained(name: str, lang: Lang, steps: list[Step], history: bool) -> None:
    dialect = get_dialect(name)
    turn = Turn("天气怎样？", tuple(steps), "好。")
    turns = (Turn("你好", (), "你好！"), turn) if history else (turn,)
    episode = Episode((WEATHER,), turns, "你是助手。", lang)
    trained = dialect.render(episode)[-1].messages
    assert dialect_messages(dialect, openai_form(episode, turn), (WEATHER,), lang) == list(trained)
