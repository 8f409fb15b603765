"""BFCL's data files, a model behind HTTP, and the calls matched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from oracle import served
from toolweave import cli
from toolweave.data.jsonl import read_jsonl
from toolweave.dialects import get_dialect
from toolweave.errors import DataError
from toolweave.evals.bfcl import Question, judge, read_questions, tool_spec
from toolweave.types import Lang, Message, ToolCall

DATA = Path(__file__).parent / "fixtures" / "bfcl"
QUESTIONS = read_questions(DATA)


def calls(question: Question) -> list[ToolCall]:
    """The calls that the first possible answers make."""
    made = []
    for answer in question.answers:
        ((name, options),) = answer.items()
        made.append(ToolCall(name, {key: values[0] for key, values in options.items() if values[0] != ""}))
    return made


class Caller:
    """Makes the right calls in a dialect: one a reply, or all at once."""

    def __init__(self, dialect: str, together: bool = False, needless: bool = False) -> None:
        self.dialect, self.together, self.needless = get_dialect(dialect), together, needless

    def __call__(self, messages: Sequence[Message]) -> str:
        text = messages[-1]["content"]
        question = next(q for q in QUESTIONS if q.messages[-1]["content"] in text)
        wanted = calls(question) or ([ToolCall("tide.height", {"harbour": "x"})] if self.needless else [])
        if self.together:
            return self.dialect.calls_completion(wanted, Lang.EN) if wanted else "Shakespeare."
        done = text.count("<result>")
        return self.dialect.call_completion(wanted[done], Lang.EN) if done < len(wanted) else "That is all."


@pytest.mark.parametrize(("dialect", "together"), [("v06", False), ("v07", False), ("v07-parallel", True)])
def test_a_perfect_caller_gets_every_question_right(dialect: str, together: bool, tmp_path: Path) -> None:
    output = tmp_path / "bfcl.jsonl"
    with served(Caller(dialect, together)) as url, pytest.raises(SystemExit) as stop:
        cli.main(
            ["eval", "bfcl", str(DATA), "--model", url, "--output", str(output), "--dialect", dialect,
             "--cache", str(tmp_path / "cache")]
        )  # fmt: skip
    assert not stop.value.code
    rows = [row for _, row in read_jsonl(output)]
    assert [row["problem"] for row in rows] == [None] * len(QUESTIONS)
    summary = json.loads((tmp_path / "bfcl" / "summary.json").read_text())
    assert summary["average"] == 1
    assert set(summary["categories"]) == {"simple", "multiple", "parallel", "parallel_multiple", "irrelevance"}


def test_a_call_where_no_function_fits_is_wrong(tmp_path: Path) -> None:
    output = tmp_path / "bfcl.jsonl"
    arguments = ["--category", "irrelevance", "--output", str(output), "--cache", str(tmp_path / "cache")]
    with served(Caller("v06", needless=True)) as url, pytest.raises(SystemExit):
        cli.main(["eval", "bfcl", str(DATA), "--model", url, *arguments])
    (row,) = [row for _, row in read_jsonl(output)]
    assert row["problem"] == "called tide.height"


def test_wrong_calls_say_what_is_wrong() -> None:
    simple = next(question for question in QUESTIONS if question.category == "simple")
    assert judge(simple, []).problem == "wrong number of calls"
    problem = judge(simple, [{"tide.height": {"harbour": "Skagen", "hours": "3"}}]).problem
    assert problem is not None
    assert "hours" in problem


def test_types_become_those_of_json_schema() -> None:
    boat = next(q for q in QUESTIONS if q.category == "multiple").functions[1]
    schema = tool_spec(boat).parameters
    assert schema["type"] == "object"
    assert schema["properties"]["length"]["type"] == "number"
    assert schema["properties"]["extras"]["items"] == {"type": "string"}


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no BFCL questions"):
        read_questions(tmp_path)
    with pytest.raises(DataError, match="no such category"):
        read_questions(DATA, ["java"])
    broken = tmp_path / "BFCL_v4_simple_python.json"
    shutil.copytree(DATA / "possible_answer", tmp_path / "possible_answer")
    broken.write_text('{"id": "simple_python_0", "function": []}\n')
    with pytest.raises(DataError, match="line 1"):
        read_questions(tmp_path)
