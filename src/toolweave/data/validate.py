"""Checks that readers of foreign data share."""

from __future__ import annotations

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from toolweave.errors import DataError
from toolweave.types import ToolCall, ToolSpec


def check_call(call: ToolCall, tool: ToolSpec) -> None:
    """Raise DataError unless the arguments match the tool's schema; parameters it does not name are refused."""
    schema = {"additionalProperties": False, **tool.parameters}
    error = best_match(Draft202012Validator(schema).iter_errors(call.arguments))
    if error is not None:
        where = "".join(f" {key!r}" for key in error.absolute_path)
        raise DataError(
            f"the arguments of {call.name} do not match its parameters:{where} {_short(error.message)}",
            f"correct the Action Input, or the parameters of {call.name}",
        )


def _short(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
