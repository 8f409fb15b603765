"""Readers of rows with one question and one answer each: SWIFT's query/response/history, and instruction/output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolweave.data import msagent
from toolweave.data.chat import Said, Speaker, build_episode
from toolweave.data.chat_rows import read_chat_row
from toolweave.data.problems import Failure, RowError
from toolweave.types import Episode


def read_query_row(row: Mapping[str, Any]) -> Episode:
    """Return the episode of a row with query, response, and perhaps history, system and tools. Raises RowError."""
    return _episode(row, row.get("query"), row.get("response"))


def read_instruction_row(row: Mapping[str, Any]) -> Episode:
    """Return the episode of a row with instruction, output, and perhaps input, history and system. Raises RowError."""
    asked, given = row.get("instruction"), row.get("input")
    query = f"{asked}\n{given}" if isinstance(asked, str) and isinstance(given, str) and given.strip() else asked
    return _episode(row, query, row.get("output"))


def _episode(row: Mapping[str, Any], query: object, response: object) -> Episode:
    history = row.get("history") or []
    if isinstance(history, str):
        try:
            history = json.loads(history)
        except (ValueError, RecursionError) as error:
            raise RowError(f"the history is not JSON: {error}", "history is a list of [question, answer]") from error
    pairs: list[Any] = [*history, (query or "", response)] if isinstance(history, list) else [history]
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowError(
                f"not a pair of question and answer: {str(pair)[:80]}", "query and response are text, history is pairs"
            )
    if not str(response).strip():
        raise RowError("the response is empty", "fill it in, or drop the row", failure=Failure.EMPTY)
    system = str(row.get("system") or "")
    meta = {"id": row["id"]} if row.get("id") is not None else {}
    if msagent.is_react(system, str(response)):
        turns = [(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
        spoken = [("system", system), *turns] if system else turns
        return msagent.parse_row({**meta, "conversations": [{"from": role, "value": text} for role, text in spoken]})
    if row.get("tools") or "<tool_call>" in str(response):
        messages = [
            {"role": r, "content": t} for pair in pairs for r, t in zip(("user", "assistant"), pair, strict=True)
        ]
        return read_chat_row({**meta, "messages": messages, "tools": row.get("tools"), "system": system})
    speakers = (Speaker.USER, Speaker.ASSISTANT)
    said = [Said(who, text) for pair in pairs for who, text in zip(speakers, pair, strict=True)]
    return build_episode(said, (), system, meta)
