"""Conversion keeps every tool, parameter, call, observation and answer, or says what is wrong."""

from __future__ import annotations

import errno
import json
import os
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from toolweave.data.convert import convert
from toolweave.data.jsonl import encode_row, read_jsonl, read_samples, write_jsonl
from toolweave.data.load import render
from toolweave.data.msagent import parse_row
from toolweave.data.strategy import Strategy
from toolweave.data.validate import check_episode
from toolweave.dialects import get_dialect
from toolweave.errors import DataError, ToolweaveError
from toolweave.types import Json, Lang, Step, ToolCall, ToolSpec, Turn

FORMAT = """
Use the following format:

Thought: you should always think about what to do
Action: the action to take, should be one of the above tools[{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question
Begin!"""


def system_prompt(tools: tuple[ToolSpec, ...]) -> str:
    """Write the tools as ms_agent's system prompt does."""
    text = "Answer the following questions as best you can. You have access to the following APIs:\n"
    for number, tool in enumerate(tools, start=1):
        required = tool.parameters["required"]
        parameters = [
            {"name": name, "description": schema["description"], "required": str(name in required)}
            for name, schema in tool.parameters["properties"].items()
        ]
        api = tool.name.replace("_", "")
        text += (
            f"{number}. {tool.name}: Call this tool to interact with the {api} API. What is the {api} API useful for? "
            f"{tool.description}. Parameters: {json.dumps(parameters, ensure_ascii=False)}\n\n"
        )
    return text + FORMAT.replace("{names}", ", ".join(tool.name for tool in tools))


def assistant_message(turn: Turn, style: str) -> str:
    """Write calls, observations and answer as one assistant message; `style` is how arguments are written."""
    text = ""
    for step in turn.steps:
        arguments = step.call.arguments
        shown = repr(arguments) if style == "python" else json.dumps(arguments, ensure_ascii=False, indent=1)
        text += f"Thought: I need {step.call.name}\nAction: {step.call.name}\nAction Input: {shown}\n"
        text += f"Observation: {step.observation}\n"
    return f"{text}Thought: I now know the final answer\nFinal Answer: {turn.answer}" if text else turn.answer


def ms_agent_row(tools: tuple[ToolSpec, ...], turns: tuple[Turn, ...], style: str = "python") -> Json:
    """Write an ms_agent row."""
    conversations = [{"from": "system", "value": system_prompt(tools)}]
    for turn in turns:
        conversations.append({"from": "user", "value": turn.query})
        conversations.append({"from": "assistant", "value": assistant_message(turn, style)})
    return {"id": "row-1", "conversations": conversations}


def write_rows(path: Path, *rows: Any) -> Path:
    """Write rows as they are, good or bad."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


# --- rows drawn at random --------------------------------------------------------------------------------------

_TRICKY = (
    'Parameters: [{"name": "x"}]', "Parameters: []", "2. other: text", "Use the following format", "]}", '"}]', "{}",
    "useful for?", "an API. What is", "Action: x", "Final Answer", "工具调用", "北京市海淀区", "🌦️", "👩‍🔬", "\\",
    "'", '"', "“引号”", "{name}", "API。", "a.b", "\\n", "\u2028",
)  # fmt: skip
_letters = st.text(string.ascii_letters + string.digits + string.punctuation + " 你好，。：！？“”é∞😀", max_size=12)
_piece = st.one_of(st.sampled_from(_TRICKY), _letters)
text = st.one_of(_piece, st.tuples(_piece, _piece).map(" ".join)).map(str.strip)
# A whole message that opens with half a call is refused: it would pass for prose.
spoken = text.filter(lambda t: t and not t.startswith("Action:"))
names = st.text(string.ascii_letters + "_-查画", min_size=1, max_size=6)
values = st.recursive(
    st.one_of(text, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=3,
)


@st.composite
def tool(draw: st.DrawFn, name: str) -> ToolSpec:
    parameters = draw(st.lists(names, unique=True, max_size=8))
    properties = {parameter: {"description": draw(text)} for parameter in parameters}
    required = [parameter for parameter in parameters if draw(st.booleans())]
    return ToolSpec(name, draw(text), {"type": "object", "properties": properties, "required": required})


@st.composite
def conversations(draw: st.DrawFn) -> tuple[tuple[ToolSpec, ...], tuple[Turn, ...]]:
    tools = tuple(draw(tool(name)) for name in draw(st.lists(names, unique=True, min_size=1, max_size=14)))

    def step() -> Step:
        called = draw(st.sampled_from(tools))
        required = called.parameters["required"]
        used = [name for name in called.parameters["properties"] if name in required or draw(st.booleans())]
        observation = draw(st.lists(text, max_size=2).map("\n".join).map(str.strip))
        return Step(ToolCall(called.name, {name: draw(values) for name in used}), observation)

    turns = tuple(
        Turn(draw(text), tuple(step() for _ in range(draw(st.integers(0, 3)))), draw(spoken))
        for _ in range(draw(st.integers(1, 3)))
    )
    return tools, turns


@settings(
    max_examples=50,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(conversations(), st.sampled_from(("python", "json")), st.sampled_from(("v06", "v07")))
def test_nothing_of_a_row_is_lost(
    drawn: tuple[tuple[ToolSpec, ...], tuple[Turn, ...]], style: str, variant: str
) -> None:
    tools, turns = drawn
    episode = parse_row(ms_agent_row(tools, turns, style))

    assert [(t.name, t.description) for t in episode.tools] == [(t.name, t.description) for t in tools]
    for read, written in zip(episode.tools, tools, strict=True):
        assert list(read.parameters["properties"]) == list(written.parameters["properties"])
        assert read.parameters["required"] == written.parameters["required"]
        for name, schema in read.parameters["properties"].items():
            assert schema["description"] == written.parameters["properties"][name]["description"]
            assert schema["type"]
    assert episode.turns == turns

    dialect = get_dialect(variant)
    samples = iter(dialect.render(episode))
    for turn in turns:
        for step in turn.steps:
            assert dialect.parse(next(samples).completion).calls == (step.call,)
        answer = dialect.parse(next(samples).completion)
        assert (answer.text, answer.calls) == (turn.answer, ())
    assert next(samples, None) is None


# --- one row in detail -----------------------------------------------------------------------------------------


def _tool(name: str, description: str = "", **parameters: str) -> ToolSpec:
    properties = {parameter: {"description": says} for parameter, says in parameters.items()}
    return ToolSpec(name, description, {"type": "object", "properties": properties, "required": list(properties)})


TOOLS = (
    _tool("search_books", "Finds books", keywords="Words of the title", filters="What to leave out"),
    *(_tool(f"tool_{number}", "", value="Any") for number in range(2, 12)),
)
STEP = Step(ToolCall("search_books", {"keywords": ["sea", "whale"], "filters": {"year": 1851}}), "[{'id': 7}]")
LATE = Step(ToolCall("tool_11", {"value": "x"}), "fine")
GOOD = ms_agent_row(TOOLS, (Turn("Any books on whales?", (STEP, LATE), "Moby Dick."), Turn("Thanks", (), "Welcome.")))


def test_types_are_read_off_the_arguments() -> None:
    tools = {tool.name: tool.parameters["properties"] for tool in parse_row(GOOD).tools}
    assert len(tools) == 11
    assert tools["search_books"]["keywords"]["type"] == "array"
    assert tools["search_books"]["filters"]["type"] == "object"
    assert tools["tool_2"]["value"]["type"] == "string"


@pytest.mark.parametrize("quoted", ["Parameters: [] Use the following format", "Parameters: [] 2. other: text"])
def test_a_description_may_quote_the_frame(quoted: str) -> None:
    tools = (_tool("first", quoted, x=quoted), _tool("last", quoted))
    read = parse_row(ms_agent_row(tools, (Turn("Hello", (), "Hi."),))).tools
    assert [(tool.name, tool.description) for tool in read] == [("first", quoted), ("last", quoted)]


def test_mixed_types_become_a_list_of_types() -> None:
    steps = tuple(Step(ToolCall("t", {"a": value}), "ok") for value in ("x", 1, 2.5, None))
    (read,) = parse_row(ms_agent_row((_tool("t", a="A"),), (Turn("go", steps, "done"),))).tools
    assert read.parameters["properties"]["a"]["type"] == ["string", "number", "null"]


def test_a_declared_type_is_kept_and_checked() -> None:
    declared = 'x API. What is the x API useful for? . Parameters: [{"name": "n", "type": "int", "required": true}]'

    def row(value: str) -> Json:
        said = f"Action: t\nAction Input: {{'n': {value}}}\nObservation: ok\nFinal Answer: done"
        tools = f"You have access to the following APIs:\n1. t: Call this tool to interact with the {declared}\n"
        pairs = (("system", tools), ("user", "go"), ("assistant", said))
        return {"conversations": [{"from": role, "value": value} for role, value in pairs]}

    assert parse_row(row("3")).tools[0].parameters["properties"]["n"]["type"] == "integer"
    with pytest.raises(DataError, match="'n' 'three' is not of type 'integer'"):
        check_episode(parse_row(row("'three'")))


def test_language_follows_the_user() -> None:
    assert parse_row(GOOD).lang is Lang.EN
    assert parse_row(ms_agent_row(TOOLS, (Turn("有书吗？", (), "有。"),))).lang is Lang.ZH


def test_a_system_message_without_tools_is_the_instruction() -> None:
    messages = (("system", "You are a poet."), ("user", "hi"), ("assistant", "Hello!"))
    episode = parse_row({"conversations": [{"from": role, "value": value} for role, value in messages]})
    assert (episode.instruction, episode.tools) == ("You are a poet.", ())
    assert episode.turns == (Turn("hi", (), "Hello!"),)


# --- files -----------------------------------------------------------------------------------------------------


def test_report_and_samples(tmp_path: Path) -> None:
    report = convert(write_rows(tmp_path / "in.jsonl", GOOD, GOOD), tmp_path / "out.jsonl", dialect="v07")
    counts = (report.rows, report.episodes, report.samples, report.turns, report.calls, report.dropped)
    assert counts == (2, 2, 8, 4, 4, ())
    samples = list(read_samples(tmp_path / "out.jsonl"))
    assert samples[0].meta == {"id": "row-1", "dialect": "agentfabric-v07", "turn": 0, "visit": "in.jsonl:1"}
    assert [tool.name for tool in samples[0].tools] == [tool.name for tool in TOOLS]
    plain = [replace(sample, meta={**sample.meta, "visit": "in.jsonl:1"}) for sample in samples[:4]]
    assert plain == render(get_dialect("v07"), parse_row(GOOD), {"visit": "in.jsonl:1"})


def _changed(number: int, **changes: Any) -> Json:
    """Return the good row with one message changed."""
    conversations = [dict(message) for message in GOOD["conversations"]]
    conversations[number].update(changes)
    return {"conversations": conversations}


def _replaced(number: int, old: str, new: str) -> Json:
    value = GOOD["conversations"][number]["value"]
    assert old in value
    return _changed(number, value=value.replace(old, new, 1))


BAD_ROWS = {
    "no conversations": ({"id": "x"}, "no conversations"),
    "conversations empty": ({"conversations": []}, "no conversations"),
    "unknown role": (_changed(1, **{"from": "robot"}), "message 2 has an unknown role: 'robot'"),
    "message not an object": ({"conversations": ["hi"]}, "message 1 has an unknown role"),
    "text missing": (_changed(2, value=None), "message 3 has no text"),
    "late system message": (_changed(3, **{"from": "system"}), "message 4 is a system message"),
    "out of turn": (_changed(2, **{"from": "user"}), "message 3 is from the user, where the assistant should speak"),
    "no reply": ({"conversations": GOOD["conversations"][:-1]}, "does not end with an assistant message"),
    "only a system message": ({"conversations": GOOD["conversations"][:1]}, "does not end with an assistant message"),
    "tool without name": (_replaced(0, "tool_9:", ":"), "tool 9 has no name"),
    "tool without header": (_replaced(0, "9. tool_9: Call", "9. Call"), "tool 9 has no name"),
    "tool listed twice": (_replaced(0, "10. tool_10:", "10. tool_9:"), "tool tool_9 is listed twice"),
    "broken parameters": (_replaced(0, '"name": "keywords", ', '"name": '), "parameters of tool search_books are not"),
    "parameter without name": (_replaced(0, '"name": "filters"', '"title": "f"'), "parameter of tool search_books has"),
    "parameter twice": (_replaced(0, '"name": "filters"', '"name": "keywords"'), "two parameters named keywords"),
    "strange flag": (_replaced(0, '"required": "True"', '"required": "maybe"'), "has required='maybe'"),
    "unknown tool": (_replaced(2, "Action: tool_11", "Action: tool_12"), "names no known tool: 'tool_12'"),
    "unknown parameter": (_replaced(2, "'filters'", "'filter'"), "do not match its parameters"),
    "missing parameter": (_replaced(2, "'keywords': ['sea', 'whale'], ", ""), "'keywords' is a required property"),
    "unreadable call": (_replaced(2, "{'keywords'", "{'keywords"), "the call of 'search_books' cannot be read"),
    "not an object": (_replaced(2, "{'keywords'", "['keywords'"), "the arguments are not a JSON object"),
    "infinite number": (_replaced(2, "1851", "1e999"), "cannot be read"),
    "infinite JSON number": (_replaced(2, "{'value': 'x'}", '{"value": Infinity}'), "are not JSON"),
    "call without observation": (_replaced(2, "\nObservation: fine", ""), "the call of 'tool_11' has no Observation"),
    "half a call": (_replaced(2, "Action Input: {'value'", "Input: {'value'"), "half a call: .Action: tool_11"),
    "no final answer": (_replaced(2, "\nFinal Answer: Moby Dick.", ""), "ends without a Final Answer"),
    "empty answer": (_replaced(2, "Moby Dick.", " "), "the answer is empty"),
    "stop word in the answer": (_replaced(4, "Welcome.", "See Observation: 1"), "cannot say this reply"),
    "call in the answer": (_replaced(2, "Moby Dick.", "No.\nAction: a\nAction Input: {}"), "half a call|cannot say"),
    "half a surrogate": (_replaced(2, "{'value': 'x'}", '{"value": "\\ud83d"}'), "surrogate"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_an_error_that_names_its_line(case: str, tmp_path: Path) -> None:
    row, message = BAD_ROWS[case]
    source = write_rows(tmp_path / "in.jsonl", GOOD, row)
    with pytest.raises(DataError, match=message) as caught:
        convert(source, tmp_path / "out.jsonl")
    assert str(caught.value).startswith(f"{source}, line 2: ")
    assert "hint: " in str(caught.value)
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_a_broken_tool_does_not_swallow_the_next_one() -> None:
    frame = (
        "10. tool_10: Call this tool to interact with the tool10 API. What is the tool10 API useful for? . Parameters: "
    )
    row = _replaced(0, frame + '[{"name"', frame + "[{name")
    with pytest.raises(DataError, match="parameters of tool tool_10 are not"):
        parse_row(row)


BAD_LINES = {
    "not JSON": (b"{oops\n", r"line 2: not JSON \(Expecting"),
    "not UTF-8": ('{"a": "é"}\n'.encode("latin-1"), "line 2: not UTF-8"),
    "a list": (b"[]\n", "line 2: a JSON list, not an object"),
    "a null": (b"null\n", "line 2: a JSON null, not an object"),
    "a number": (b"1\n", "line 2: a JSON number, not an object"),
    "not a number": (b'{"a": NaN}\n', "line 2: not JSON"),
    "half a surrogate": (b'{"a": "\\ud800"}\n', "line 2: not UTF-8"),
    "endless nesting": (b'{"a":' + b"[" * 200_000 + b"\n", "line 2: not JSON"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_an_error_that_names_it(case: str, tmp_path: Path) -> None:
    line, message = BAD_LINES[case]
    source = write_rows(tmp_path / "in.jsonl", GOOD)
    source.write_bytes(source.read_bytes() + line)
    for read in (lambda: convert(source, tmp_path / "out.jsonl"), lambda: list(read_jsonl(source))):
        with pytest.raises(DataError, match=message):
            read()
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_not_strict_leaves_bad_rows_out_and_lists_them(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", {"id": 1}, GOOD, _replaced(2, "Action: tool_11", "Action: a"))
    source.write_bytes(b"\n" + source.read_bytes() + b"oops\n")
    report = convert(source, tmp_path / "out.jsonl", strategy=Strategy.WARNING)
    assert (report.rows, report.episodes, report.samples) == (4, 1, 4)
    assert [dropped.line for dropped in report.dropped] == [2, 4, 5]
    assert [dropped.reason.split(":")[0] for dropped in report.dropped] == [
        "the row has no conversations", "the call names no known tool", "not JSON (Expecting value)",
    ]  # fmt: skip


@pytest.mark.parametrize("strategy", [Strategy.ERROR, Strategy.WARNING])
def test_a_file_without_any_good_row_is_an_error(strategy: Strategy, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match="it is empty"):
        convert(write_rows(tmp_path / "empty.jsonl"), out, strategy=strategy)
    bad = write_rows(tmp_path / "bad.jsonl", {"id": 1})
    with pytest.raises(DataError, match="no known format: its rows have id"):
        convert(bad, out, strategy=strategy)
    with pytest.raises(DataError, match="line 1: the row has no conversations"):
        convert(bad, out, from_="ms_agent", strategy=strategy)
    assert not out.exists()


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    good = write_rows(tmp_path / "in.jsonl", GOOD)
    before = good.read_bytes()
    out = tmp_path / "out.jsonl"
    (tmp_path / "hollow").mkdir()
    for source, target, message in (
        (tmp_path / "none.jsonl", out, "no such file"),
        (tmp_path / "hollow", out, "holds no data files"),
        (good, tmp_path, "not a plain file"),
        (good, Path("/dev/null"), "not a plain file"),
        (good, tmp_path / "none" / "out.jsonl", "folder does not exist"),
        (good, good, "both source and target"),
    ):
        with pytest.raises(DataError, match=message):
            convert(source, target)
    with pytest.raises(ToolweaveError, match="unknown format 'csv'"):
        convert(good, out, from_="csv")
    with pytest.raises(ToolweaveError, match="unknown dialect 'v08'"):
        convert(good, out, dialect="v08")
    assert sorted(os.listdir(tmp_path)) == ["hollow", "in.jsonl"]
    assert good.read_bytes() == before


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
        lambda value: st.lists(value) | st.dictionaries(st.text() | st.integers(), value),
        max_leaves=8,
    )
)
def test_rows_are_written_as_json_says_or_not_at_all(value: Any) -> None:
    row = {"content": value}
    try:
        expected = json.loads(json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8"))
    except ValueError:  # NaN, or half a surrogate pair
        with pytest.raises(ValueError):  # noqa: PT011
            encode_row(row)
    else:
        assert json.loads(encode_row(row)) == expected


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", GOOD)
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    assert convert(source, tmp_path / "out.jsonl").episodes == 1


def test_a_full_disk_leaves_the_target_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    target = write_rows(tmp_path / "out.jsonl", {"old": True})
    with pytest.raises(DataError, match="no space left on the disk"):
        write_jsonl(target, [{"new": True}])
    assert os.listdir(tmp_path) == ["out.jsonl"]
    assert [row.content for row in read_jsonl(target)] == [{"old": True}]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_rows_that_fail_leave_the_target_as_it_was(error: type[BaseException], tmp_path: Path) -> None:
    def rows() -> Iterator[Json]:
        yield {"new": True}
        raise error

    target = write_rows(tmp_path / "out.jsonl", {"old": True})
    with pytest.raises(error):
        write_jsonl(target, rows())
    assert os.listdir(tmp_path) == ["out.jsonl"]
    assert target.read_text() == '{"old": true}\n'
    assert write_jsonl(target, [{"new": "好"}, {}]) == 2
    assert target.read_text("utf-8") == '{"new":"好"}\n{}\n'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "'messages' is missing"),
        ({"messages": []}, "at least one message"),
        ({"messages": 3, "completion": ""}, "not iterable"),
        ({"messages": [{"role": "user", "content": "hi"}], "completion": None}, "completion must be a string"),
        ({"messages": [{"role": "user", "content": "hi"}], "completion": "", "tools": "{"}, "Expecting"),
        ({"messages": [{"role": "user", "content": "hi"}], "completion": "", "tools": "[1]"}, "no attribute"),
    ],
)
def test_what_is_not_a_sample_is_named(row: Json, message: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "samples.jsonl", row)
    with pytest.raises(DataError, match=f"line 1: not a sample: .*{message}"):
        list(read_samples(path))
