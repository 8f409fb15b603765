"""Traces as rows of the store, and filters as SQL."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from toolweave.traces.recognise import Recognised
from toolweave.traces.trace import (
    Exchange,
    Feedback,
    FeedbackKind,
    Filter,
    Flag,
    ModelReply,
    Outcome,
    Review,
    Trace,
    Verdict,
)
from toolweave.types import ToolSpec

ANY_RULE = "*"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Where(NamedTuple):
    """A condition on `traces t`, and its parameters."""

    sql: str
    parameters: tuple[Any, ...]


def insert(
    connection: sqlite3.Connection, trace: str, visit: str, previous: str | None, turn: int, exchange: Exchange,
    seen: Recognised, query: str,
) -> None:  # fmt: skip
    """Add the row of a trace, without its anchors."""
    reply = exchange.reply
    row = {
        "id": trace,
        "visit": visit,
        "previous": previous,
        "turn": turn,
        "started": exchange.started,
        "latency": exchange.latency,
        "first_token": exchange.first_token,
        "source": exchange.source,
        "status": exchange.status,
        "outcome": exchange.outcome.value,
        "model": str(exchange.request.get("model") or ""),
        "agent": seen.agent,
        "dialect": seen.dialect.name if seen.dialect else "",
        "tools": _json([tool.openai() for tool in seen.tools]),
        "query": query,
        "request": _json(exchange.request),
        "reply": reply.text,
        "tool_calls": _json(reply.tool_calls),
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
    }
    values = [_storable(value) for value in row.values()]
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO traces ({names}) VALUES ({marks})", values)  # noqa: S608  # names are ours


def read(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[Trace]:
    """Return the traces of rows, with their flags and feedback."""
    ids = _json([row["id"] for row in rows])
    flags: dict[str, list[Flag]] = {}
    for trace, rule, why in connection.execute(
        "SELECT trace, rule, why FROM flags WHERE trace IN (SELECT value FROM json_each(?)) ORDER BY rowid", [ids]
    ):
        flags.setdefault(trace, []).append(Flag(rule, why))
    feedback: dict[str, list[Feedback]] = {}
    for trace, kind, text, time in connection.execute(
        "SELECT trace, kind, text, time FROM feedback WHERE trace IN (SELECT value FROM json_each(?)) ORDER BY rowid",
        [ids],
    ):
        feedback.setdefault(trace, []).append(Feedback(FeedbackKind(kind), text, time))
    return [_trace(row, flags, feedback) for row in rows]


def where(wanted: Filter) -> Where:
    """Return the SQL condition of a filter."""
    conditions: list[tuple[str, tuple[Any, ...]]] = []
    if wanted.ids:
        either = " OR ".join(["substr(t.id, 1, ?) = ? OR substr(t.visit, 1, ?) = ?"] * len(wanted.ids))
        conditions.append((f"({either})", tuple(part for i in wanted.ids for part in (len(i), i) * 2)))
    for column in ("agent", "model"):
        if (value := getattr(wanted, column)) is not None:
            conditions.append((f"t.{column} = ?", (value,)))
    for column in ("verdict", "outcome"):
        if (value := getattr(wanted, column)) is not None:
            conditions.append((f"t.{column} = ?", (value.value,)))
    if wanted.tool is not None:
        offered = "SELECT json_extract(value, '$.function.name') FROM json_each(t.tools)"
        conditions.append((f"? IN ({offered})", (wanted.tool,)))
    if wanted.rule == ANY_RULE:
        conditions.append(("t.id IN (SELECT trace FROM flags)", ()))
    elif wanted.rule is not None:
        conditions.append(("t.id IN (SELECT trace FROM flags WHERE rule = ?)", (wanted.rule,)))
    if wanted.since is not None:
        conditions.append(("t.started >= ?", (wanted.since,)))
    if wanted.until is not None:
        conditions.append(("t.started < ?", (wanted.until,)))
    if wanted.text is not None:
        # The request is JSON: what is looked for stands in it as JSON writes it.
        escaped = json.dumps(wanted.text, ensure_ascii=False)[1:-1]
        conditions.append(("(instr(t.request, ?) OR instr(t.reply, ?))", (escaped, wanted.text)))
    sql = " AND ".join(condition for condition, _ in conditions) or "1"
    return Where(sql, tuple(value for _, parameters in conditions for value in parameters))


def _trace(row: sqlite3.Row, flags: Mapping[str, list[Flag]], feedback: Mapping[str, list[Feedback]]) -> Trace:
    reply = ModelReply(
        row["reply"],
        tuple(json.loads(row["tool_calls"])),
        row["finish_reason"],
        row["prompt_tokens"],
        row["completion_tokens"],
    )
    exchange = Exchange(
        json.loads(row["request"]),
        reply,
        row["started"],
        row["latency"],
        row["first_token"],
        row["status"],
        Outcome(row["outcome"]),
        row["source"],
    )
    return Trace(
        id=row["id"],
        visit=row["visit"],
        previous=row["previous"],
        turn=row["turn"],
        exchange=exchange,
        agent=row["agent"],
        dialect=row["dialect"],
        tools=tuple(ToolSpec.from_openai(tool) for tool in json.loads(row["tools"])),
        query=row["query"],
        flags=tuple(flags.get(row["id"], ())),
        feedback=tuple(feedback.get(row["id"], ())),
        review=Review(Verdict(row["verdict"]), row["label"], row["reviewer"], row["reviewed"]),
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _storable(value: Any) -> Any:
    """Half a surrogate pair, which JSON can spell, is no text that a file can hold."""
    return _SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value
