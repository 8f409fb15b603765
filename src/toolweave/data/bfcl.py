"""Reader of BFCL questions: a question, functions, and the calls that answer it, with their allowed values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolweave.data.chat import Said, Speaker, build_episode
from toolweave.data.problems import Failure, RowError
from toolweave.data.schemas import read_tools
from toolweave.types import Episode, Json, ToolCall

_HINT = "put BFCL's possible_answer folder beside the question file, or ground_truth into the rows"


def read_bfcl_row(row: Mapping[str, Any]) -> Episode:
    """Return the episode of a question and its ground truth; of the allowed values the first is taken.

    The calls have no observations, so only the first of several calls can be learned. Raises RowError.
    """
    tools = read_tools(row.get("function"))
    question, truth = row.get("question"), row.get("ground_truth")
    if isinstance(question, str):
        question = [[{"role": "user", "content": question}]]
    if isinstance(question, list) and question and isinstance(question[0], Mapping):
        question = [question]
    if not isinstance(question, list) or not all(isinstance(turn, list) for turn in question):
        raise RowError("the question is not a list of messages", _HINT)
    if len(question) > 1:
        raise RowError("a question of several turns, which needs BFCL's simulated APIs", "use single-turn categories")
    if not isinstance(truth, list) or not truth:
        raise RowError("the question has no ground truth", _HINT, failure=Failure.EMPTY)
    said, instruction = [], ""
    for message in question[0]:
        if message.get("role") == "system":
            instruction = str(message.get("content") or "")
        else:
            speaker = Speaker.USER if message.get("role") == "user" else Speaker.ASSISTANT
            said.append(Said(speaker, str(message.get("content") or "")))
    said += [Said(Speaker.CALL, call=_call(call)) for call in truth]
    return build_episode(said, tools, instruction, {"id": row["id"]} if "id" in row else {})


def _call(call: object) -> ToolCall:
    if not isinstance(call, Mapping) or len(call) != 1:
        raise RowError(
            f"not a call with allowed values: {str(call)[:80]}", 'a call is {"name": {"argument": [values]}}'
        )
    ((name, allowed),) = call.items()
    if not isinstance(allowed, Mapping):
        raise RowError(f"the allowed values of {name} are no object", 'a call is {"name": {"argument": [values]}}')
    chosen: Json = {}
    for argument, values in allowed.items():
        options = values if isinstance(values, list) else [values]
        if options and options[0] != "":  # "" means that it may be left out
            chosen[argument] = _first(options[0])
    return ToolCall(str(name), chosen)


def _first(value: Any) -> Any:
    """Return a value whose inner values are lists of allowed ones, with the first of each."""
    if isinstance(value, Mapping):
        return {key: _first(inner[0] if isinstance(inner, list) and inner else inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_first(item) if isinstance(item, Mapping) else item for item in value]
    return value
