"""Requests read back: the inverse of rendering, and nothing made up about other people's prompts."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toolweave.dialects import AgentFabric, Prompt
from toolweave.dialects.reading import Exchange, Reading
from toolweave.types import Lang, Message, Role, ToolSpec

EXCHANGES = Path(__file__).parent / "fixtures" / "exchanges"
DIALECTS = st.sampled_from([AgentFabric("v06"), AgentFabric("v07")])
LANGS = st.sampled_from(list(Lang))
# Pieces of the prompt itself among any text.
TRAPS = st.sampled_from(
    [
        "\n# 工具\n\n", "\n\n# 知识库\n\n", "\n# 指令\n\n", "#Instructions", " API. ",
        " 输入参数: {}", " Parameters: {}", " Format the arguments as a JSON object.", "\n\n", "(", ")", "。",
        "你正在扮演", "下面你将开始扮演", "]之一", "工具调用\nAction: x\nAction Input: {}", "Answer:",
        "<result>", "</result>\nAnswer:", "👩‍🔬", "\\", '"', "{name}",
    ]
)  # fmt: skip
TEXTS = st.lists(TRAPS | st.text(st.characters(exclude_categories=["Cs"]), max_size=10), max_size=3).map("".join)
NAMES = st.from_regex(r"[A-Za-z_\u67e5\u753b][A-Za-z0-9_\-]{0,12}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=6,
)
TOOLS = st.lists(
    st.builds(ToolSpec, NAMES, TEXTS, st.dictionaries(TEXTS, VALUES, max_size=3)),
    max_size=5,
    unique_by=lambda t: t.name,
)
MESSAGES = st.builds(Message, role=st.sampled_from(["user", "assistant"]), content=TEXTS)
PROMPTS = st.builds(
    Prompt,
    query=TEXTS,
    tools=TOOLS.map(tuple),
    instruction=TEXTS | st.builds(Role, name=TEXTS, description=TEXTS, instruction=TEXTS),
    lang=LANGS,
    knowledge=TEXTS,
    history=st.lists(MESSAGES, max_size=3).map(tuple),
    files=st.lists(st.sampled_from(["a.png", "数据.csv", "b c.txt"]), max_size=2).map(tuple),
)


def replay(dialect: AgentFabric, reading: Reading) -> list[Message]:
    """Return the request that a reading stands for."""
    start = dialect.start(reading.prompt)
    return reduce(lambda messages, made: dialect.advance(messages, made.reply, made.observation), reading.trace, start)


@given(DIALECTS, PROMPTS)
def test_read_prompt_is_the_inverse_of_start(dialect: AgentFabric, prompt: Prompt) -> None:
    messages = dialect.start(prompt)
    reading = dialect.read_prompt(messages)
    assert reading is not None
    assert replay(dialect, reading) == messages
    # Some texts can be read in two ways; whatever is read, the request is the same.
    assume("\n#" not in prompt.knowledge and "#Instr" not in prompt.knowledge)
    assume(isinstance(prompt.instruction, str) or "下面你将" not in str(prompt.instruction))
    assume(isinstance(prompt.instruction, str) or "。" not in prompt.instruction["name"])
    assume(prompt.tools or prompt.knowledge or not prompt.query.startswith("("))
    assert reading == Reading(prompt, ())


CALL = '工具调用\nAction: amap_weather\nAction Input: {"location": "朝阳区"}'


@given(DIALECTS, PROMPTS, st.lists(st.tuples(TEXTS.map("查一下{}".format), TEXTS), max_size=3))
def test_the_trace_is_read_off_the_user_message(
    dialect: AgentFabric, prompt: Prompt, later: list[tuple[str, str]]
) -> None:
    made = [Exchange(CALL, "晴"), *(Exchange(reply.rstrip(), shown) for reply, shown in later)]
    assume(not any("</result>" in shown or "</result>" in reply or "<result>" in reply for reply, shown in made))
    messages = replay(dialect, Reading(prompt, tuple(made)))
    reading = dialect.read_prompt(messages)
    assert reading is not None
    assert replay(dialect, reading) == messages
    assume("Action" not in prompt.query and "<result>" not in prompt.query)
    assert reading.trace == tuple(made)


@pytest.mark.parametrize("version", ["v06", "v07"])
def test_recorded_requests_are_read(version: str) -> None:
    recorded = json.loads((EXCHANGES / f"roleplay_{version}.json").read_text("utf-8"))
    dialect = AgentFabric("v06" if version == "v06" else "v07")
    other = AgentFabric("v07" if version == "v06" else "v06")
    read = 0
    for scenario in recorded.values():
        agent, run = scenario["agent"], scenario["run"]
        for number, request in enumerate(scenario["requests"]):
            messages = request["body"].get("messages")
            if messages is None:
                continue
            reading = dialect.read_prompt(messages)
            assert reading is not None
            assert replay(dialect, reading) == messages
            assert reading.prompt.query == run["query"]
            assert reading.prompt.instruction == agent["instruction"]
            assert [tool.name for tool in reading.prompt.tools] == agent["function_list"]
            assert reading.prompt.knowledge == run.get("ref_doc", "")
            assert list(reading.prompt.history) == run.get("history", [])
            assert reading.prompt.lang == run.get("lang", "zh")
            assert len(reading.trace) == number
            # Without tools both clients may write the same system message in English.
            assert other.read_prompt(messages) is None or not agent["function_list"]
            read += 1
    assert read > 10


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": "hi"}],
        [{"role": "system", "content": "You are a poet."}, {"role": "user", "content": "hi"}],
        [{"role": "system", "content": ""}, {"role": "assistant", "content": "hi"}],
    ],
)
def test_other_prompts_are_not_read(messages: list[Any]) -> None:
    assert AgentFabric("v06").read_prompt(messages) is None
