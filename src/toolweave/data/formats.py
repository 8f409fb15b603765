"""The formats of training data: how each is recognised, and its reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolweave.data import api_bank, bfcl, msagent, toolbench
from toolweave.data.agentfabric_rows import is_agentfabric, read_agentfabric_row
from toolweave.data.chat_rows import is_hermes, read_chat_row
from toolweave.data.swift_rows import read_instruction_row, read_query_row
from toolweave.errors import DataError
from toolweave.types import Episode, Json


@dataclass(frozen=True, slots=True)
class Format:
    """A format of rows. `read` turns a row into an episode and raises DataError; `matches` recognises rows."""

    name: str
    about: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Json], Episode]


SAMPLES = "samples"
"""The name of toolweave's own sample files: requests and replies, which need no reader."""

# From the most particular to the most general: the first that matches wins.
_FORMATS = (
    Format(
        "ms_agent_for_agentfabric", "AgentFabric requests, one model call a row", is_agentfabric, read_agentfabric_row
    ),
    Format(
        "toolbench", "ToolBench answer trees and conversations", toolbench.is_toolbench, toolbench.read_toolbench_row
    ),
    Format("ms_agent", "ReAct conversations with tools in the system prompt", msagent.is_ms_agent, msagent.parse_row),
    Format("hermes", "chat rows with <tool_call> text", is_hermes, read_chat_row),
    Format("openai", "messages and tools, with tool_calls", lambda row: "messages" in row, read_chat_row),
    Format(
        "sharegpt",
        "conversations with function_call and observation",
        lambda row: "conversations" in row,
        read_chat_row,
    ),
    Format("api_bank", "API-Bank dialogues, a file each", api_bank.is_turn, api_bank.read_dialogue),
    Format(
        "bfcl",
        "BFCL questions with ground truth",
        lambda row: {"question", "function"} <= row.keys(),
        bfcl.read_bfcl_row,
    ),
    Format("swift", "query, response, history", lambda row: "response" in row, read_query_row),
    Format(
        "alpaca",
        "instruction, input, output",
        lambda row: {"instruction", "output"} <= row.keys(),
        read_instruction_row,
    ),
)
FORMATS = {format_.name: format_ for format_ in _FORMATS}
"""Every format with a reader, by name."""


def get_format(name: str) -> Format:
    """Return a format by name. Raises DataError for an unknown one."""
    if name not in FORMATS:
        raise DataError(f"unknown format {name!r}", f"choose one of {', '.join((SAMPLES, *FORMATS))}")
    return FORMATS[name]


def detect(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the name of the most particular format that any of the rows has, or None if none has any."""
    found = [name for row in rows if (name := _detect(row))]
    order = [SAMPLES, *FORMATS]
    return min(found, key=order.index) if found else None


def _detect(row: Mapping[str, Any]) -> str | None:
    if "messages" in row and "completion" in row:
        return SAMPLES
    for format_ in _FORMATS:
        try:
            if format_.matches(row):
                return format_.name
        except DataError:
            continue
    return None
