"""BFCL on its own data files: one request a question, its calls matched as `bfcl-eval` matches them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolweave.data.jsonl import read_jsonl
from toolweave.dialects import CallsPerReply, Dialect, Prompt, ToolsIn
from toolweave.errors import DataError
from toolweave.evals.bfcl_match import Call, match
from toolweave.evals.cache import Metered, ReplyCache, Source
from toolweave.evals.score import Counts
from toolweave.types import Json, Lang, Message, ToolCall, ToolSpec

CATEGORIES = ("simple", "multiple", "parallel", "parallel_multiple", "irrelevance")
"""Each also as `live_…`. BFCL 4 names the first `simple_python`."""

_FILE = re.compile(r"(?:BFCL_v\d+_)?(?P<live>live_)?(?P<name>[a-z_]+?)(?:_python)?\.jsonl?")
_SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array"}
_NOT_ON_WIRE = re.compile(r"[^a-zA-Z0-9_-]")
# What a call in a sequence gets to see: BFCL's functions do not exist.
_DONE = '{"status": "success"}'
_MAX_REPLIES = 8


@dataclass(frozen=True, slots=True)
class Question:
    """A question of BFCL. `functions` and `answers` are as in its files; no answers: no call is right."""

    id: str
    category: str
    messages: tuple[Message, ...]
    functions: tuple[Json, ...]
    answers: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class BfclResult:
    """What a model called; `problem` says what is wrong with it, None if nothing."""

    id: str
    category: str
    problem: str | None
    calls: tuple[Call, ...]
    reply: str

    def to_json(self) -> Json:
        """Return the JSON form."""
        return {**asdict(self), "right": self.problem is None}


def read_questions(folder: Path, categories: Collection[str] = (), limit: int | None = None) -> list[Question]:
    """Read BFCL's files in a folder; `categories` picks some of those it has, `limit` the first of each.

    Possible answers are in `possible_answer/`, under the same file names. Raises DataError naming file and line.
    """
    if unknown := [name for name in categories if name.removeprefix("live_") not in CATEGORIES]:
        raise DataError(f"no such category: {unknown[0]}", f"choose from {', '.join(CATEGORIES)}, or live_… of them")
    questions: list[Question] = []
    for path in sorted(folder.glob("*.json*")):
        found = _FILE.fullmatch(path.name)
        category = f"{found['live'] or ''}{found['name']}" if found else ""
        if category.removeprefix("live_") in CATEGORIES and (not categories or category in categories):
            questions += list(_read_file(path, category))[:limit]
    if not questions:
        raise DataError(
            f"{folder} holds no BFCL questions", "name the folder with BFCL_v…_simple_python.json and possible_answer/"
        )
    return questions


def run_questions(
    questions: Sequence[Question],
    source: Source,
    dialect: Dialect,
    cache: ReplyCache,
    concurrency: int = 12,
    done: Callable[[BfclResult], None] = lambda result: None,
) -> list[BfclResult]:
    """Ask the questions in a dialect and match the calls, in order. Raises ServerError when the server is gone.

    A dialect that makes one call a reply is asked on for parallel questions, as its app would ask.
    """

    def ask(question: Question) -> BfclResult:
        calls, reply = _ask(question, Metered(source, cache), dialect)
        result = judge(question, calls, reply)
        done(result)
        return result

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(ask, questions))


def judge(question: Question, calls: Sequence[Call], reply: str = "") -> BfclResult:
    """Match the calls that a model made."""
    if question.answers:
        problem = match(question.category, question.functions, calls, question.answers)
    else:
        problem = f"called {', '.join(next(iter(call)) for call in calls)}" if calls else None
    return BfclResult(question.id, question.category, problem, tuple(calls), reply)


def count_categories(results: Sequence[BfclResult]) -> dict[str, Counts]:
    """Return how many are right, by category."""
    counts: dict[str, Counts] = {}
    for result in results:
        of = counts.setdefault(result.category, Counts())
        of.n += 1
        of.ok += result.problem is None
    return counts


def tool_spec(function: Json, name: str | None = None) -> ToolSpec:
    """Return a function of BFCL as a tool: its types become those of JSON Schema."""
    return ToolSpec(name or function["name"], function.get("description", ""), _schema(function["parameters"]))


def _ask(question: Question, model: Metered, dialect: Dialect) -> tuple[list[Call], str]:
    on_wire = dialect.tools_in is ToolsIn.REQUEST
    names = {_NOT_ON_WIRE.sub("_", f["name"]) if on_wire else f["name"]: f["name"] for f in question.functions}
    tools = tuple(tool_spec(f, name) for name, f in zip(names, question.functions, strict=True))
    system = [m["content"] for m in question.messages if m["role"] == "system"]
    *history, last = [m for m in question.messages if m["role"] != "system"]
    prompt = Prompt(last["content"], tools, "\n\n".join(system), Lang.EN, history=tuple(history))
    messages, calls, said = dialect.start(prompt), list[Call](), list[str]()
    in_turn = "parallel" in question.category and dialect.calls_per_reply is CallsPerReply.ONE
    for _ in range(_MAX_REPLIES if in_turn else 1):
        reply = "".join(model.complete(messages, dialect.stop, tools if on_wire else ()))
        said.append(reply)
        made = [call for call in dialect.parse(reply).calls if isinstance(call, ToolCall)]
        made = made[:1] if dialect.calls_per_reply is CallsPerReply.ONE else made
        new: list[Call] = [{names.get(call.name, call.name): call.arguments} for call in made]
        calls += new
        if not new:
            break
        messages = dialect.advance(messages, reply, *[_DONE] * len(new))
    return calls, "\n".join(said)


def _read_file(path: Path, category: str) -> Iterator[Question]:
    answers: Mapping[str, Sequence[Call]] = {}
    if not category.endswith("irrelevance"):
        beside = path.parent / "possible_answer" / path.name
        answers = {row["id"]: row["ground_truth"] for _, row in read_jsonl(beside) if "ground_truth" in row}
    for number, row in read_jsonl(path):
        try:
            asked = [Message(role=str(m["role"]), content=str(m["content"])) for m in row["question"][0]]
            functions = tuple(dict(function) for function in row["function"])
            wanted = () if category.endswith("irrelevance") else tuple(answers[row["id"]])
            if not asked or asked[-1]["role"] != "user":
                raise ValueError("the last message is not the user's")
            [tool_spec(function) for function in functions]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"{path}, line {number}: not a question of BFCL: {error!r}", "it has id, question and function"
            ) from error
        yield Question(str(row["id"]), category, tuple(asked), functions, wanted)


def _schema(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    return {
        key: _SCHEMA_TYPES.get(kind, kind) if key == "type" and isinstance(kind, str) else _schema(value)
        for key, value in schema.items()
        if not (key == "type" and kind == "any")
    }
