"""Checks of episodes and samples: every call against its own row's JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

import jsonschema_rs
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry

from toolweave.data.problems import Failure, RowError
from toolweave.dialects import AgentFabric, dialect_of, get_dialect
from toolweave.dialects.caching import cached_by_identity
from toolweave.types import Episode, InvalidToolCall, Json, Sample, ToolCall, ToolSpec

_FAILURES = {
    "required": Failure.MISSING,
    "type": Failure.TYPE,
    "enum": Failure.ENUM,
    "const": Failure.ENUM,
    "additionalProperties": Failure.EXTRA,
}


@cached_by_identity
def _validator(tool: ToolSpec) -> Draft202012Validator:
    # An empty registry: a schema from outside never makes us fetch a $ref.
    return Draft202012Validator(_closed(tool), registry=Registry())


@cached_by_identity
def _quick_validator(tool: ToolSpec) -> jsonschema_rs.Draft202012Validator | None:
    """Return a compiled validator, at a tenth of the time; None for a schema that it refuses as a whole."""
    try:
        return jsonschema_rs.Draft202012Validator(_closed(tool), offline=True)
    except (ValueError, jsonschema_rs.ValidationError):
        return None


def _closed(tool: ToolSpec) -> Json:
    return {"additionalProperties": False, **tool.parameters}


_CLIENTS = (AgentFabric("v06"), AgentFabric("v07"))


def check_call(call: ToolCall, tool: ToolSpec) -> None:
    """Raise RowError unless the arguments match the tool's schema; parameters it does not name are refused."""
    if _surely_valid(call, tool):
        return
    validator = _validator(tool)
    try:
        error = best_match(validator.iter_errors(call.arguments))
        zh = f"{call.name} 的参数不符合定义：{_in_chinese(error)}" if error is not None else ""
    except Exception as failed:
        # Whatever a foreign schema makes the library raise, the schema is to blame.
        raise _unusable(tool, failed) from failed
    if error is not None:
        where = "".join(f" {key!r}" for key in error.absolute_path)
        raise RowError(
            f"the arguments of {call.name} do not match its parameters:{where} {_short(error.message)}",
            f"correct the Action Input, or the parameters of {call.name}",
            failure=_kind(error),
            tool=call.name,
            zh=zh,
        )


def _surely_valid(call: ToolCall, tool: ToolSpec) -> bool:
    """Tell whether the quick validator accepts the arguments; what it refuses, the other one judges and explains."""
    quick = _quick_validator(tool)
    try:
        return quick is not None and quick.is_valid(call.arguments)
    except ValueError:  # half a surrogate pair
        return False


def check_calls(calls: Sequence[ToolCall], tools: Sequence[ToolSpec]) -> None:
    """Raise RowError for the first call that names no listed tool or does not match its schema."""
    listed = {tool.name: tool for tool in tools}
    for call in calls:
        if call.name not in listed:
            raise RowError(
                f"the call names no known tool: {call.name!r}",
                f"the row lists {', '.join(listed) or 'no tools'}",
                failure=Failure.UNKNOWN_TOOL,
                tool=call.name,
            )
        check_call(call, listed[call.name])


def check_episode(episode: Episode) -> None:
    """Raise RowError for the first call of an episode that its tools do not allow."""
    check_calls([step.call for turn in episode.turns for step in turn.steps], episode.tools)


def check_sample(sample: Sample) -> None:
    """Raise RowError unless a sample has a reply whose calls are well-formed and match the sample's tools."""
    if not sample.completion.strip():
        raise RowError("the completion is empty", "a sample teaches its completion", failure=Failure.EMPTY)
    _check_roles(sample)
    calls = list(_calls(sample))
    if not sample.tools and calls:
        tools = _shown_tools(sample)
        if tools is None:
            return  # the prompt is in a format that only its app knows
        check_calls(calls, tools)
    else:
        check_calls(calls, sample.tools)


def _calls(sample: Sample) -> Iterator[ToolCall]:
    dialect = dialect_of(sample) or get_dialect("v06")
    for call in dialect.parse(sample.completion).calls:
        if isinstance(call, InvalidToolCall):
            raise RowError(
                f"the call of {call.name!r} cannot be read: {call.reason}: {call.raw[:80]!r}",
                "write the arguments as a JSON object",
                tool=call.name,
            )
        yield call


def _check_roles(sample: Sample) -> None:
    roles = [message["role"] for message in sample.messages if message["role"] != "system"]
    if "system" in [message["role"] for message in sample.messages[1:]]:
        raise RowError("a system message after the first", "only the first may be one", failure=Failure.ROLES)
    if not roles or roles[-1] == "assistant":
        raise RowError("the request does not end with the user", "the completion is the reply", failure=Failure.ROLES)
    for before, after in pairwise(roles):
        if before == after and before in ("user", "assistant"):
            raise RowError(f"two {before} messages in a row", "user and assistant take turns", failure=Failure.ROLES)


def _shown_tools(sample: Sample) -> tuple[ToolSpec, ...] | None:
    for client in _CLIENTS:
        reading = client.read_prompt(sample.messages)
        if reading is not None:
            return reading.prompt.tools
    return None


def _unusable(tool: ToolSpec, error: Exception) -> RowError:
    try:
        Draft202012Validator.check_schema(tool.parameters)
        reason = str(error) or type(error).__name__
    except (SchemaError, RecursionError) as wrong:
        reason = wrong.message if isinstance(wrong, SchemaError) else "it is nested too deep"
    return RowError(
        f"the parameters of {tool.name} are no usable JSON Schema: {_short(reason)}",
        "correct the tool list; a $ref must stay inside it",
        failure=Failure.SCHEMA,
        tool=tool.name,
        zh=f"{tool.name} 的参数定义不是可用的 JSON Schema：{_short(reason)}",
    )


def _kind(error: ValidationError) -> Failure:
    return _FAILURES.get(str(error.validator), Failure.ARGUMENTS)


def _in_chinese(error: ValidationError) -> str:
    """Say what jsonschema says, which knows English only."""
    where = ".".join(str(key) for key in error.absolute_path)
    given: Any = error.instance
    wanted: Any = error.validator_value
    value = _short(json.dumps(given, ensure_ascii=False, default=str))
    match error.validator:
        case "required":
            return f"{where} 缺少 {'、'.join(name for name in wanted if name not in given)}".strip()
        case "additionalProperties":
            known = cast(Json, error.schema).get("properties", ())
            return f"{where} 没有这个参数：{'、'.join(name for name in given if name not in known)}".strip()
        case "type":
            kinds = [wanted] if isinstance(wanted, str) else wanted
            return f"{where} 的值 {value} 应为 {'、'.join(kinds)} 类型"
        case "enum":
            return f"{where} 的值 {value} 不在可选值 {_short(json.dumps(wanted, ensure_ascii=False))} 中"
    return f"{where} 的值 {value} 不符合 {error.validator}"


def _short(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
