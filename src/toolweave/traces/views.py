"""Traces in the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolweave.traces.trace import Counts, Trace, Visit

_QUERY_LENGTH = 40
_TOP = 8


def print_visits(visits: Iterable[Visit], console: Console) -> None:
    """Print a table of visits, one a line."""
    table = Table(box=None, pad_edge=False)
    for heading in ("visit", "time", "agent", "requests", "verdicts", "flags", "query"):
        table.add_column(heading, no_wrap=heading in ("visit", "time"))
    for visit in visits:
        verdicts = dict.fromkeys(trace.review.verdict.value for trace in visit.traces)
        flags = dict.fromkeys(flag.rule for flag in visit.flags)
        cells = (
            visit.id,
            _time(visit.started),
            _short(visit.agent, 20),
            str(len(visit.traces)),
            ", ".join(verdicts),
            ", ".join(flags),
            _short(visit.query, _QUERY_LENGTH),
        )
        table.add_row(*(Text(_plain(cell)) for cell in cells))
    console.print(table)


def print_counts(counts: Counts, console: Console) -> None:
    """Print how many traces there are, by verdict, rule, tool, agent and model."""
    console.print(f"{counts.traces} traces in {counts.visits} visits", highlight=False)
    for name in ("by_verdict", "by_rule", "by_tool", "by_agent", "by_model"):
        tally: Mapping[str, int] = getattr(counts, name)
        if tally:
            shown = [f"{_short(key, 30) or '-'} {count}" for key, count in list(tally.items())[:_TOP]]
            console.print(Text(f"  {name.removeprefix('by_')}: {_plain(', '.join(shown))}"))


def print_visit(visit: Visit, console: Console) -> None:
    """Print the timeline of a visit: each request's end, its reply, flags and verdict."""
    console.print(Text(_plain(f"visit {visit.id} · {visit.agent} · {len(visit.traces)} requests"), style="bold"))
    for trace in visit.traces:
        print_trace(trace, console)


def print_trace(trace: Trace, console: Console, *, whole: bool = False) -> None:
    """Print a trace; `whole` shows all its messages and not only the last."""
    exchange = trace.exchange
    facts = [_time(exchange.started), trace.model, f"{exchange.latency:.2f} s", exchange.outcome.value]
    facts += [f"finish {trace.reply.finish_reason}"] if trace.reply.finish_reason else []
    facts += [f"{trace.reply.completion_tokens} tokens"] if trace.reply.completion_tokens is not None else []
    console.rule(Text(_plain(f"{trace.id} · turn {trace.turn + 1} · {' · '.join(facts)}")), align="left")
    for message in trace.messages if whole else trace.messages[-1:]:
        console.print(Text(_plain(f"{message.get('role')}: "), style="bold cyan"), Text(_plain(_content(message))))
    if whole and trace.prompt:
        console.print(Text("prompt: ", style="bold cyan"), Text(_plain(trace.prompt)))
    console.print(Text("reply: ", style="bold green"), Text(_plain(trace.reply.text)))
    if trace.reply.tool_calls:
        console.print(Text("calls: ", style="bold green"), Text(_plain(_json(list(trace.reply.tool_calls)))))
    for flag in trace.flags:
        console.print(Text(_plain(f"⚑ {flag.rule}: {flag.why}"), style="yellow"))
    for item in trace.feedback:
        console.print(Text(_plain(f"{item.kind.value} {item.text}"), style="magenta"))
    review = trace.review
    if review.label is not None:
        console.print(Text("corrected to: ", style="bold green"), Text(_plain(review.label)))
    if review.reviewer:
        console.print(Text(_plain(f"{review.verdict.value} by {review.reviewer}"), style="bold"))


def _content(message: Mapping[str, object]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else _json({k: v for k, v in message.items() if k != "role"})


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(text: str) -> str:
    """A model's text may hold what a terminal takes for commands; only line breaks and tabs pass."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)


def _short(text: str, limit: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
